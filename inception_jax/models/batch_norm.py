# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with a derivative that reads its input and its gradient twice."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# slim/nets/inception_utils.py, inception_arg_scope: batch_norm_epsilon=0.001. Flax's
# default of 1e-5 moves the logits of the published weights by up to 0.1 of their spread.
BN_EPSILON = 1e-3
# Share of the old moving average that is kept; the same function, batch_norm_decay.
BN_DECAY = 0.9997


class Averaging(NamedTuple):
    """Over which devices batch statistics are averaged, as `jax.lax.pmean` takes it."""

    axis_name: str | None = None  # None: over none
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None

    def means(self, *maps: Float[Array, "... c"]) -> list[Float[Array, " c"]]:
        """Means over all positions, and over the devices."""
        means = [jnp.mean(x, axis=tuple(range(x.ndim - 1))) for x in maps]
        if self.axis_name is None:
            return means
        groups = self.axis_index_groups
        return list(
            jax.lax.pmean(jnp.stack(means), self.axis_name, axis_index_groups=groups)
        )


class Form(NamedTuple):
    """What `normalize` is to compute."""

    epsilon: float
    relu: bool
    over: Averaging
    dtype: DTypeLike  # of its maps
    widths: tuple[int, ...]  # channels of each of them


class Normalized(NamedTuple):
    """A map with its own statistics taken out, and these."""

    y: Float[Array, "... c"]
    mean: Float[Array, " c"]
    var: Float[Array, " c"]


class BatchNorm(nn.Module):
    """Batch normalisation (1502.03167) over all axes but the last, and a ReLU if wanted.

    Parameters `bias` and, with `use_scale`, `scale`; moving averages `mean` and `var` in
    the collection `batch_stats`: what `flax.linen.BatchNorm` has. Statistics, which are
    float32 for an input of any type, are the batch's own or with `use_running_average` the
    moving averages.

    The values are those of `flax.linen.BatchNorm`, whose gradient, as JAX derives it,
    takes three passes over the map; that of `normalize` takes two. Gradients can be
    differentiated again, but there is no forward mode (`jax.jvp`) without one.
    """

    use_running_average: bool
    momentum: float = BN_DECAY
    epsilon: float = BN_EPSILON
    use_scale: bool = True
    relu: bool = False
    axis_name: str | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    dtype: DTypeLike = jnp.float32  # of the result

    @nn.compact
    def __call__(self, x: Float[Array, "... c"] | Normalized) -> Float[Array, "... c"]:
        """What `normalized` gives is taken as well; that only moves the averages."""
        known = x if isinstance(x, Normalized) else None
        shape = (known.y if known else x).shape[-1:]
        averages = [
            self.variable("batch_stats", name, init, shape)
            for name, init in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        scale = self.param("scale", nn.initializers.ones, shape) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average or self.is_initializing():
            mean, var = (average.value for average in averages)
            gain = _gain(var, scale, self.epsilon)
            return _affine(x, mean, gain, bias, self.relu).astype(self.dtype)
        y, *found = known or self.normalized(x, scale, bias, shape)[0]
        for average, new in zip(averages, found, strict=True):
            average.value = self.momentum * average.value + (1 - self.momentum) * new
        return y

    @nn.nowrap
    def normalized(
        self,
        x: Float[Array, "... c"],
        scale: Float[Array, " c"] | None,
        bias: Float[Array, " c"],
        widths: tuple[int, ...],
    ) -> list[Normalized]:
        """In training, as a function of the parameters; it moves no averages.

        `widths` are the channels of the maps that are side by side in x: one each.
        """
        over = Averaging(self.axis_name, self.axis_index_groups)
        form = Form(self.epsilon, self.relu, over, self.dtype, widths)
        found = normalize(form, x, scale, bias)
        return list(map(Normalized, found[0], *(split(v, widths) for v in found[1:])))


def FrozenBatchNorm(*, use_running_average: bool, **fields: Any) -> BatchNorm:
    """`BatchNorm` by its moving averages whether in training or not; they stay."""
    return BatchNorm(use_running_average=True, **fields)


def _gain(var: Array, scale: Array | None, epsilon: float) -> Array:
    gain = jax.lax.rsqrt(var + epsilon)
    return gain if scale is None else gain * scale


def _along(x: Array, vector: Array) -> Array:
    """A number for each channel, as it is broadcast over x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _affine(x: Array, mean: Array, gain: Array, bias: Array, relu: bool) -> Array:
    y = (x - _along(x, mean)) * _along(x, gain) + _along(x, bias)
    return jnp.maximum(y, 0) if relu else y


def split(x: Float[Array, "... c"], widths: Sequence[int]) -> list[Float[Array, "... _"]]:
    """The maps of these many channels that are side by side in x."""
    return jnp.split(x, list(accumulate(widths))[:-1], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(
    form: Form,
    x: Float[Array, "... c"],
    scale: Float[Array, " c"] | None,
    bias: Float[Array, " c"],
) -> tuple[list[Float[Array, "... _"]], Float[Array, " c"], Float[Array, " c"]]:
    """The normalised x, in maps of `form.widths`, and in float32 the mean and variance of
    x, which have no gradient."""
    return forward(form, x, scale, bias)[0]


def forward(form: Form, x: Array, scale: Array | None, bias: Array) -> tuple[tuple, tuple]:
    """What `normalize` gives, and what `_backward` takes.

    The maps are written one by one, and split before they are widened: on a TPU, XLA would
    keep them for the gradients twice, joined and apart, or wide.
    """
    kind = jnp.promote_types(x.dtype, jnp.float32)
    mean, square = form.over.means(x.astype(kind), jnp.square(x.astype(kind)))
    var = jnp.maximum(square - jnp.square(mean), 0)
    joined = x, mean, _gain(var, scale, form.epsilon), bias
    maps = [
        _affine(part.astype(kind), *vectors, form.relu).astype(form.dtype)
        for part, *vectors in zip(*(split(y, form.widths) for y in joined), strict=True)
    ]
    return (maps, mean, var), (x, scale, bias, mean, var)


def _backward(
    form: Form, known: tuple, gradients: tuple
) -> tuple[Array, Array | None, Array]:
    """Two passes over x and the gradient of y: the sums, then the gradient of x.

    Where the ReLU was open is told from x, which is read anyway, by one comparison: more
    than that, and XLA computes it with y and keeps it as a map of its own.
    """
    x, scale, bias, mean, var = known
    dy = jnp.concatenate(gradients[0], axis=-1).astype(mean.dtype)
    wide, along = x.astype(mean.dtype), partial(_along, x)
    gain, centred = _gain(var, scale, form.epsilon), wide - along(mean)
    if form.relu:
        # (x - mean) * gain + bias > 0, divided by the size of the gain.
        sign, size = jnp.sign(gain), jnp.where(gain == 0, 1, jnp.abs(gain))
        signed = wide if scale is None else along(sign) * wide
        dy = jnp.where(signed > along(sign * mean - bias / size), dy, 0)
    every = tuple(range(x.ndim - 1))
    dbias, dgain = jnp.sum(dy, every), jnp.sum(dy * centred, every)
    root = jax.lax.rsqrt(var + form.epsilon)
    dmean, dvar = form.over.means(-dbias * gain, -0.5 * dgain * gain * jnp.square(root))
    count = x.size // x.shape[-1]
    dx = dy * along(gain) + centred * along(2 / count * dvar) + along(dmean / count)
    return dx.astype(x.dtype), None if scale is None else dgain * root, dbias


normalize.defvjp(forward, _backward)
