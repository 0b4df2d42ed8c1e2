# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with a derivative that reads its input and its gradient twice."""

from functools import partial
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
        y, *found = known or self.normalized(x, scale, bias)
        for average, new in zip(averages, found, strict=True):
            average.value = self.momentum * average.value + (1 - self.momentum) * new
        return y

    @nn.nowrap
    def normalized(
        self,
        x: Float[Array, "... c"],
        scale: Float[Array, " c"] | None,
        bias: Float[Array, " c"],
    ) -> Normalized:
        """In training, as a function of the parameters; it moves no averages."""
        over = Averaging(self.axis_name, self.axis_index_groups)
        y, mean, var = normalize(self.epsilon, self.relu, over, x, scale, bias)
        return Normalized(y.astype(self.dtype), mean, var)


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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def normalize(
    epsilon: float,
    relu: bool,
    over: Averaging,
    x: Float[Array, "... c"],
    scale: Float[Array, " c"] | None,
    bias: Float[Array, " c"],
) -> tuple[Float[Array, "... c"], Float[Array, " c"], Float[Array, " c"]]:
    """In float32: the normalised x, and the mean and variance of x, which have no
    gradient."""
    return forward(epsilon, relu, over, x, scale, bias)[0]


def forward(
    epsilon: float, relu: bool, over: Averaging, x: Array, scale: Array | None, bias: Array
) -> tuple[tuple, tuple]:
    """What `normalize` gives, and what `_backward` takes."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, square = over.means(wide, jnp.square(wide))
    var = jnp.maximum(square - jnp.square(mean), 0)
    y = _affine(wide, mean, _gain(var, scale, epsilon), bias, relu)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(
    epsilon: float, relu: bool, over: Averaging, known: tuple, gradients: tuple
) -> tuple[Array, Array | None, Array]:
    """Two passes over x and the gradient of y: the sums, then the gradient of x.

    Where the ReLU was open is told from x, which is read anyway, by one comparison: more
    than that, and XLA computes it with y and keeps it as a map of its own.
    """
    x, scale, bias, mean, var = known
    dy, wide = gradients[0].astype(mean.dtype), x.astype(mean.dtype)
    along = partial(_along, x)
    gain, centred = _gain(var, scale, epsilon), wide - along(mean)
    if relu:
        # (x - mean) * gain + bias > 0, divided by the size of the gain.
        sign, size = jnp.sign(gain), jnp.where(gain == 0, 1, jnp.abs(gain))
        signed = wide if scale is None else along(sign) * wide
        dy = jnp.where(signed > along(sign * mean - bias / size), dy, 0)
    every = tuple(range(x.ndim - 1))
    dbias, dgain = jnp.sum(dy, every), jnp.sum(dy * centred, every)
    root = jax.lax.rsqrt(var + epsilon)
    dmean, dvar = over.means(-dbias * gain, -0.5 * dgain * gain * jnp.square(root))
    count = x.size // x.shape[-1]
    dx = dy * along(gain) + centred * along(2 / count * dvar) + along(dmean / count)
    return dx.astype(x.dtype), None if scale is None else dgain * root, dbias


normalize.defvjp(forward, _backward)
