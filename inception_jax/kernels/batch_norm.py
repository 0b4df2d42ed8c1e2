# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation whose gradient takes two passes over its input instead of three.

JAX's derivative of `flax.linen.BatchNorm` reads the feature map and the incoming gradient
three times. The formula written out here needs two passes. A ReLU after the normalisation
adds none, because its mask follows from the input by one comparison.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class Averaging(NamedTuple):
    """The devices over which batch statistics are averaged; see `jax.lax.pmean`."""

    axis_name: str | None = None  # None: each device uses its own statistics
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None

    def means(self, *arrays: Float[Array, "... c"]) -> list[Float[Array, " c"]]:
        """Return the mean of each array over all axes except the last, and over devices."""
        means = [jnp.mean(x, axis=tuple(range(x.ndim - 1))) for x in arrays]
        if self.axis_name is None:
            return means
        groups = self.axis_index_groups
        return list(
            jax.lax.pmean(jnp.stack(means), self.axis_name, axis_index_groups=groups)
        )


class Options(NamedTuple):
    """Static settings of `batch_norm`."""

    epsilon: float
    relu: bool  # whether a ReLU follows
    averaging: Averaging
    dtype: DTypeLike  # of the outputs
    widths: tuple[int, ...]  # channels of each output; their sum is the input's channels


Outputs = tuple[list[Float[Array, "... _"]], Float[Array, " c"], Float[Array, " c"]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def batch_norm(
    options: Options,
    x: Float[Array, "... c"],
    scale: Float[Array, " c"] | None,
    bias: Float[Array, " c"],
) -> Outputs:
    """Normalise `x` by the statistics of its batch.

    Returns the normalised input, split into feature maps of `options.widths` channels, and
    the float32 mean and variance of `x`, through which no gradient flows. There is no
    forward-mode derivative (`jax.jvp`) of this function, only of its gradient.
    """
    return forward(options, x, scale, bias)[0]


def normalize(
    x: Float[Array, "... c"],
    mean: Float[Array, " c"],
    gain: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    relu: bool,
) -> Float[Array, "... c"]:
    """Return `(x - mean) * gain + bias`, followed by a ReLU if `relu`."""
    y = (x - _align(x, mean)) * _align(x, gain) + _align(x, bias)
    return jnp.maximum(y, 0) if relu else y


def gain_of(var: Array, scale: Array | None, epsilon: float) -> Float[Array, " c"]:
    """Return `scale / sqrt(var + epsilon)`; a `scale` of None counts as 1."""
    gain = jax.lax.rsqrt(var + epsilon)
    return gain if scale is None else gain * scale


def split(x: Float[Array, "... c"], widths: Sequence[int]) -> list[Float[Array, "... _"]]:
    """Split the last axis of `x` into parts of the given widths."""
    return jnp.split(x, list(accumulate(widths))[:-1], axis=-1)


def _align(x: Array, vector: Array) -> Array:
    """Reshape one number per channel so that it broadcasts over `x`."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def forward(
    options: Options, x: Array, scale: Array | None, bias: Array
) -> tuple[Outputs, tuple]:
    """Return the result of `batch_norm` and the values saved for its gradient.

    The input is split before it is converted to float32, and the outputs are written one by
    one: otherwise XLA keeps concatenated or float32 copies of them in a TPU's memory.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    mean, square = options.averaging.means(x.astype(wide), jnp.square(x.astype(wide)))
    var = jnp.maximum(square - jnp.square(mean), 0)
    joint = x, mean, gain_of(var, scale, options.epsilon), bias
    outputs = [
        normalize(part.astype(wide), *vectors, relu=options.relu).astype(options.dtype)
        for part, *vectors in zip(*(split(y, options.widths) for y in joint), strict=True)
    ]
    return (outputs, mean, var), (x, scale, bias, mean, var)


def _backward(
    options: Options, residuals: tuple, cotangents: tuple
) -> tuple[Array, Array | None, Array]:
    """Return the gradients of `x`, `scale` and `bias` from two passes over `x` and `dy`.

    The ReLU mask is recomputed from `x` by a single comparison. With a longer expression,
    XLA would compute the mask in the forward pass and store it as a separate array.
    """
    x, scale, bias, mean, var = residuals
    dy = jnp.concatenate(cotangents[0], axis=-1).astype(mean.dtype)
    wide, align = x.astype(mean.dtype), partial(_align, x)
    gain, centred = gain_of(var, scale, options.epsilon), wide - align(mean)
    if options.relu:
        # (x - mean) * gain + bias > 0, divided by the absolute value of the gain.
        sign, size = jnp.sign(gain), jnp.where(gain == 0, 1, jnp.abs(gain))
        signed = wide if scale is None else align(sign) * wide
        dy = jnp.where(signed > align(sign * mean - bias / size), dy, 0)
    axes = tuple(range(x.ndim - 1))
    dbias, dgain = jnp.sum(dy, axes), jnp.sum(dy * centred, axes)
    root = jax.lax.rsqrt(var + options.epsilon)
    dmean, dvar = options.averaging.means(
        -dbias * gain, -0.5 * dgain * gain * jnp.square(root)
    )
    count = x.size // x.shape[-1]
    dx = dy * align(gain) + centred * align(2 / count * dvar) + align(dmean / count)
    return dx.astype(x.dtype), None if scale is None else dgain * root, dbias


batch_norm.defvjp(forward, _backward)
