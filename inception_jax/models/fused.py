# SPDX-License-Identifier: Apache-2.0
"""The layers of `layers.py` with kernels: the same results in less time and memory.

Parameters, their names and the mathematics are those of `layers.py`; values agree up to
rounding, which tests check block by block. They are computed differently:

- 1x1 convolutions of stride 1 are matrix multiplications.
- In training, the 1x1 convolutions that begin several branches are one multiplication.
- An average pool and the 1x1 convolution after it swap places: fewer channels are pooled.
- Batch normalisation, max pools and ReLUs have hand-written gradients (`kernels/`).
- The residual scale multiplies the weights of the linear 1x1 convolution, not its output.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.kernels.batch_norm import (
    Averaging,
    Options,
    batch_norm,
    gain_of,
    normalize,
    split,
)
from inception_jax.kernels.max_pool import max_pool
from inception_jax.kernels.pointwise import pointwise
from inception_jax.kernels.residual_sum import relu, residual_sum
from inception_jax.models import layers
from inception_jax.models.layers import (
    BN_DECAY,
    BN_EPSILON,
    Box,
    Branches,
    Layer,
    LayerSet,
    ModuleDef,
    Pool,
    avg_pool,
    layer_of,
)


class Normalized(NamedTuple):
    """A normalised feature map and the batch statistics that it was normalised with."""

    y: Float[Array, "... c"]
    mean: Float[Array, " c"]
    var: Float[Array, " c"]


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` over all axes except the last, followed by a ReLU if `relu`.

    Parameters are `bias` and, with `use_scale`, `scale`; the moving averages are `mean` and
    `var` in the collection `batch_stats`. Statistics are float32 for any input.
    """

    use_running_average: bool
    momentum: float = BN_DECAY
    epsilon: float = BN_EPSILON
    use_scale: bool = True
    relu: bool = False
    axis_name: str | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    dtype: DTypeLike = jnp.float32  # of the output

    @nn.compact
    def __call__(self, x: Float[Array, "... c"] | Normalized) -> Float[Array, "... c"]:
        """Normalise `x`; if it is `Normalized` already, only update the moving averages."""
        y, normalized = (x.y, x) if isinstance(x, Normalized) else (x, None)
        shape = y.shape[-1:]
        averages = [
            self.variable("batch_stats", name, init, shape)
            for name, init in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        scale = self.param("scale", nn.initializers.ones, shape) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average or self.is_initializing():
            mean, var = (average.value for average in averages)
            gain = gain_of(var, scale, self.epsilon)
            return normalize(y, mean, gain, bias, relu=self.relu).astype(self.dtype)
        if normalized is None:
            (normalized,) = self.normalized(y, scale, bias, shape)
        for average, value in zip(averages, normalized[1:], strict=True):
            average.value = self.momentum * average.value + (1 - self.momentum) * value
        return normalized.y

    @nn.nowrap
    def normalized(
        self,
        x: Float[Array, "... c"],
        scale: Float[Array, " c"] | None,
        bias: Float[Array, " c"],
        widths: tuple[int, ...],
    ) -> list[Normalized]:
        """Normalise the feature maps of `widths` channels in `x` by their batch statistics.

        This is a pure function of its arguments; the moving averages do not change.
        """
        averaging = Averaging(self.axis_name, self.axis_index_groups)
        options = Options(self.epsilon, self.relu, averaging, self.dtype, widths)
        outputs, *statistics = batch_norm(options, x, scale, bias)
        means, variances = (split(values, widths) for values in statistics)
        return list(map(Normalized, outputs, means, variances))


class ConvBN(layers.ConvBN):
    """`layers.ConvBN`; `pool` precedes it in the network but is computed after it.

    Both are linear, the pool in space and the 1x1 convolution in channels, so their order
    does not matter.
    """

    norm: ModuleDef | None = BatchNorm
    pool: Pool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        normalized: Normalized | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "n h2 w2 d"]:
        """Return the output. `leading_convs` may have computed `normalized` already."""
        if normalized is None:
            is_pointwise = self.kernel == (1, 1) and self.stride == 1
            x = nn.Conv(
                self.features,
                self.kernel,
                strides=self.stride,
                padding=self.padding,
                use_bias=self.norm is None,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                conv_general_dilated=pointwise if is_pointwise else None,
                name="conv",
            )(x)
            if self.pool:
                x = self.pool(x)
        if self.norm is None:
            return nn.relu(x)
        norm = self.norm(
            use_running_average=not train, relu=True, dtype=self.dtype, name="bn"
        )
        return norm(x if normalized is None else normalized)

    @nn.nowrap
    def jointly(
        self, x: Float[Array, "n h w c"], params: list[dict], pools: list[Pool | None]
    ) -> list[Normalized] | None:
        """Compute several 1x1 convolutions of `x` with these parameters and pools at once.

        They are one matrix multiplication; neighbours with the same pool share one pool and
        one normalisation. Returns None if no batch statistics are used.
        """
        if self.norm is None:
            return None
        norm = self.norm(
            use_running_average=False, relu=True, dtype=self.dtype, parent=None
        )
        if norm.use_running_average:
            return None
        kernels = [p["conv"]["kernel"].astype(self.dtype) for p in params]
        y = pointwise(x.astype(self.dtype), jnp.concatenate(kernels, axis=-1))
        parts = split(y, [kernel.shape[-1] for kernel in kernels])
        bn_params, outputs = [p["bn"] for p in params], []
        for pool, group in groupby(
            zip(pools, parts, bn_params, strict=True), itemgetter(0)
        ):
            _, inputs, bns = zip(*group, strict=True)
            joint = jnp.concatenate(inputs, axis=-1)
            scale = _concatenated(bns, "scale") if norm.use_scale else None
            widths = tuple(bn["bias"].size for bn in bns)
            outputs += norm.normalized(
                pool(joint) if pool else joint, scale, _concatenated(bns, "bias"), widths
            )
        return outputs


def _concatenated(trees: Sequence[dict], name: str) -> Float[Array, " c"]:
    return jnp.concatenate([tree[name] for tree in trees])


class ScaledConv1x1(layers.ScaledConv1x1):
    """`layers.ScaledConv1x1` that scales its weights, to save a pass over the output."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], scale: Float[Array, "..."] | None = None
    ) -> Float[Array, "n h w d"]:
        kernel, bias = self.weights(x.shape[-1])
        if scale is not None:
            factor = scale.reshape(1, 1, 1, -1)
            kernel, bias = kernel * factor, bias * factor.reshape(-1)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return pointwise(x, kernel) + bias.reshape(1, 1, 1, -1)


class Branch(nn.Module):
    """`layers.Branch`; `first` is the output of its first convolution if already known."""

    layers: tuple[Layer, ...]
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        first: Normalized | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "n h2 w2 d"]:
        pool: Pool | None = None
        for layer, following in zip(self.layers, (*self.layers[1:], None), strict=True):
            if layer is avg_pool and isinstance(following, Box) and following.is_pointwise:
                pool = avg_pool  # computed after the convolution that follows
            elif isinstance(layer, Box):
                module = layer_of(layer, self.conv, pool=pool)
                x, first, pool = module(x, first, train=train), None, None
            elif isinstance(layer, tuple):
                x = layers.concat_boxes(x, layer, self.conv, train=train)
            else:
                x = max_pool(x) if layer is layers.max_pool else layer(x)
        return x


def concat_branches(
    module: nn.Module,
    x: Float[Array, "n h w c"],
    branches: Branches,
    *,
    conv: ModuleDef,
    train: bool,
) -> Float[Array, "n h2 w2 d"]:
    """`layers.concat_branches` with joint leading 1x1 convolutions in training."""
    first = leading_convs(module, x, branches, conv) if train else {}
    outputs = [
        Branch(branch, conv=conv, name=f"Branch_{i}")(x, first.get(i), train=train)
        for i, branch in enumerate(branches)
    ]
    return jnp.concatenate(outputs, axis=-1)


def leading_convs(
    module: nn.Module, x: Float[Array, "n h w c"], branches: Branches, conv: ModuleDef
) -> dict[int, Normalized]:
    """Return outputs of the leading 1x1 convolutions, keyed by branch.

    The result is empty if fewer than two branches begin with one. Computed together, they
    read `x` once, and the gradient of `x` is one matrix multiplication instead of a sum of
    several. Inference would be slower (1.14 times as long with one image on a CPU), because
    the kernels must be concatenated first.
    """
    names, pools = {}, {}
    for i, (first, *rest) in enumerate(branches):
        pool = avg_pool if first is avg_pool else None
        box = rest[0] if pool and rest else first
        if isinstance(box, Box) and box.is_pointwise:
            names[i], pools[i] = box.name, pool
    if module.is_initializing() or len(names) < 2:
        return {}
    order = sorted(names, key=lambda i: pools[i] is not None)  # neighbours share a pool
    params: list[dict] = [
        module.get_variable("params", f"Branch_{i}")[names[i]] for i in order
    ]
    # This module has no parameters; only its settings are used.
    outputs = conv(x.shape[-1], parent=None).jointly(x, params, [pools[i] for i in order])
    return dict(zip(order, outputs, strict=True)) if outputs else {}


FUSED = LayerSet(
    ConvBN, ScaledConv1x1, BatchNorm, concat_branches, residual_sum, relu, max_pool
)
