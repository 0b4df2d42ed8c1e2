# SPDX-License-Identifier: Apache-2.0
"""The layers in the paper's figures, in stock Flax.

A figure is written down as data: a branch is a tuple of layers from input to output, and a
block is a tuple of branches, which slim calls `Branch_0`, `Branch_1`, and so on. Kernel
sizes are (height, width). `fused.py` has faster versions of the same layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

SAME = "SAME"
VALID = "VALID"  # a "V" in the paper's figures
# slim/nets/inception_utils.py, inception_arg_scope: batch_norm_epsilon=0.001. Flax's
# default is 1e-5, with which logits differ by up to 0.1 standard deviations.
BN_EPSILON = 1e-3
# Fraction of the old moving average that is kept: batch_norm_decay of the same function.
BN_DECAY = 0.9997

ModuleDef = Callable[..., nn.Module]


@dataclass(frozen=True)
class Box:
    """One convolution box of a figure, named as slim names it (`Conv2d_0b_1x7`)."""

    position: str  # slim's "0a", "1a", ...; "" gives slim's unnumbered `Conv2d_1x1`
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = SAME

    @property
    def name(self) -> str:
        """Name of the convolution's scope, for example `Conv2d_1a_3x3`."""
        height, width = self.kernel
        size = f"{height}x{width}"
        return "_".join(part for part in ("Conv2d", self.position, size) if part)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position depends on one input position only."""
        return self.kernel == (1, 1) and self.stride == 1


Pool = Callable[[Array], Array]
# A layer of a branch: a box, a pool, or boxes side by side whose outputs are concatenated.
Layer = Box | Pool | tuple[Box, ...]
Branches = tuple[tuple[Layer, ...], ...]


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """3x3 max pool of stride 2 without padding: the pool of every stem and reduction."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=VALID)


def avg_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """3x3 average pool of stride 1; as in TensorFlow, the mean leaves out the padding."""
    pooled = nn.avg_pool(x, (3, 3), strides=(1, 1), padding=SAME, count_include_pad=False)
    # Flax divides by a float32 array of counts, which turns bfloat16 into float32.
    return pooled.astype(x.dtype)


BatchNorm = partial(nn.BatchNorm, momentum=BN_DECAY, epsilon=BN_EPSILON)


def frozen(norm: ModuleDef) -> ModuleDef:
    """Return `norm` with fixed moving averages, which training uses too."""

    def frozen_norm(*, use_running_average: bool, **fields: Any) -> nn.Module:
        return norm(use_running_average=True, **fields)

    return frozen_norm


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, ReLU: what each box stands for.

    Section 3: "batch-normalization only on top of the traditional layers". The moving
    averages are in the collection `batch_stats`. Batch statistics are float32 regardless of
    `dtype`. With `norm=None` batch normalisation is folded into the convolution, which then
    has a bias.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = SAME
    norm: ModuleDef | None = BatchNorm
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        x = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        if self.norm:
            x = self.norm(use_running_average=not train, dtype=self.dtype, name="bn")(x)
        return nn.relu(x)


class ScaledConv1x1(nn.Module):
    """The linear 1x1 convolution that ends a residual: `scale * (x W + b)`.

    `scale` is one number or one per channel; None leaves the output unscaled.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], scale: Float[Array, "..."] | None = None
    ) -> Float[Array, "n h w d"]:
        kernel, bias = self.weights(x.shape[-1])
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), SAME, dimension_numbers=numbers)
        y = y + bias.reshape(1, 1, 1, -1)
        return y if scale is None else scale.reshape(1, 1, 1, -1).astype(y.dtype) * y

    def weights(self, channels: int) -> tuple[Array, Array]:
        """Create or read this module's `kernel` and `bias`."""
        shape = (1, 1, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


def residual_sum(
    x: Float[Array, "n h w c"],
    residual: Float[Array, "n h w c"],
    activation: Callable[[Array], Array] | None,
) -> Float[Array, "n h w c"]:
    """Return `activation(x + residual)`; None is the identity."""
    return activation(x + residual) if activation else x + residual


def layer_of(box: Box, conv: ModuleDef, **fields: Any) -> nn.Module:
    """Return the module of a box, under the box's name."""
    return conv(box.features, box.kernel, box.stride, box.padding, name=box.name, **fields)


def concat_boxes(
    x: Float[Array, "n h w c"], boxes: tuple[Box, ...], conv: ModuleDef, *, train: bool
) -> Float[Array, "n h2 w2 d"]:
    """Apply boxes side by side to `x` and concatenate their channels."""
    outputs = [layer_of(box, conv)(x, train=train) for box in boxes]
    return jnp.concatenate(outputs, axis=-1)


class Branch(nn.Module):
    """One column of a figure: its layers one after another."""

    layers: tuple[Layer, ...]
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        for layer in self.layers:
            if isinstance(layer, Box):
                x = layer_of(layer, self.conv)(x, train=train)
            elif isinstance(layer, tuple):
                x = concat_boxes(x, layer, self.conv, train=train)
            else:
                x = layer(x)
        return x


def concat_branches(
    module: nn.Module,
    x: Float[Array, "n h w c"],
    branches: Branches,
    *,
    conv: ModuleDef,
    train: bool,
) -> Float[Array, "n h2 w2 d"]:
    """Filter concatenation: apply all branches to `x` and concatenate their channels.

    Call it inside the compact `__call__` of `module`; branch i becomes its submodule
    `Branch_i`.
    """
    outputs = [
        Branch(layers, conv=conv, name=f"Branch_{i}")(x, train=train)
        for i, layers in enumerate(branches)
    ]
    return jnp.concatenate(outputs, axis=-1)


@dataclass(frozen=True)
class LayerSet:
    """The implementations that a network's blocks are built from.

    `PLAIN` holds the layers of this file, `fused.FUSED` the fast ones. A network sets their
    dtype, initialisers and batch normalisation.
    """

    conv: ModuleDef
    scaled_conv: ModuleDef
    norm: ModuleDef | None  # None: folded into the convolutions
    concat: Callable[..., Array]
    residual_sum: Callable[..., Array]
    relu: Callable[[Array], Array]
    max_pool: Pool


PLAIN = LayerSet(
    ConvBN, ScaledConv1x1, BatchNorm, concat_branches, residual_sum, nn.relu, max_pool
)


class Mixed(nn.Module):
    """A block whose branches are concatenated: slim's `Mixed_*` scopes."""

    branches: Branches
    layers: LayerSet = PLAIN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        layers = self.layers
        return layers.concat(self, x, self.branches, conv=layers.conv, train=train)
