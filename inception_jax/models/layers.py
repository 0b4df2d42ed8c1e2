# SPDX-License-Identifier: Apache-2.0
"""The pieces every figure of the paper is drawn with: convolution boxes, pools, branches.

A figure is written down as data: a branch is a tuple of layers from input to output,
a block is a tuple of branches (`Branch_0`, `Branch_1`, ... as in slim), and
`concat_branches` computes it. Kernel sizes are always (height, width).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

SAME = "SAME"
VALID = "VALID"  # a "V" in the paper's figures

# slim/nets/inception_utils.py, inception_arg_scope: batch_norm_epsilon=0.001. Flax's
# default of 1e-5 moves the logits of the published weights by up to 0.1 of their spread.
BN_EPSILON = 1e-3
# Share of the old moving average that is kept; the same function, batch_norm_decay.
BN_DECAY = 0.9997

ModuleDef = Callable[..., nn.Module]

BatchNorm = partial(nn.BatchNorm, momentum=BN_DECAY, epsilon=BN_EPSILON)


def FrozenBatchNorm(*, use_running_average: bool, **fields: Any) -> nn.BatchNorm:
    """`BatchNorm` by its moving averages whether in training or not; they stay."""
    return BatchNorm(use_running_average=True, **fields)


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
    def pointwise(self) -> bool:
        """Whether every position is mapped on its own."""
        return self.kernel == (1, 1) and self.stride == 1


# A layer of a branch: a box, a pool, or boxes side by side whose outputs are concatenated.
Layer = Box | Callable[[Array], Array] | tuple[Box, ...]
Branches = tuple[tuple[Layer, ...], ...]


def conv_for(kernel: tuple[int, int], stride: int = 1) -> ModuleDef:
    """`nn.Conv` for a kernel size; 1x1 of stride 1 is computed as a matrix product.

    Same parameters and same mathematics. XLA's convolution on a CPU takes more than twice
    as long for the gradient of a block of 1024 channels; accelerators were not measured.
    """
    if kernel == (1, 1) and stride == 1:
        return partial(nn.Conv, conv_general_dilated=_matrix_product)
    return nn.Conv


def _matrix_product(
    x: Array,
    kernel: Array,
    strides: object,
    padding: object,
    *,
    precision: object,
    **_: object,
) -> Array:
    return jax.lax.dot_general(
        x, kernel[0, 0], (((x.ndim - 1,), (0,)), ((), ())), precision=precision
    )


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, ReLU: what each box stands for.

    Section 3: "batch-normalization only on top of the traditional layers". The moving
    averages live in the `batch_stats` collection. Under `dtype=bfloat16` the batch
    statistics are still accumulated in float32.

    `pool` is an average pool before a 1x1 convolution. Both are linear, one in space and
    one in channels, so it is computed behind the convolution, on fewer channels.
    Without a `norm`, which is then folded into it, the convolution has a bias.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = SAME
    norm: ModuleDef | None = BatchNorm
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    pool: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        x = conv_for(self.kernel, self.stride)(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        if self.pool:
            x = self.pool(x)
        if self.norm:
            norm = self.norm(use_running_average=not train, dtype=self.dtype, name="bn")
            x = norm(x)
        return nn.relu(x)


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """3x3 max pool of stride 2, unpadded: the pool of every stem and reduction."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=VALID)


def avg_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """3x3 average pool of stride 1; the padding is left out of the mean, as in TF."""
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding=SAME, count_include_pad=False)


class Branch(nn.Module):
    """One column of a figure: its layers one after another."""

    layers: tuple[Layer, ...]
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        def apply_box(box: Box, x: Array, **fields: Any) -> Array:
            module = self.conv(
                box.features, box.kernel, box.stride, box.padding, name=box.name, **fields
            )
            return module(x, train=train)

        pool = None
        for layer, after in pairwise((*self.layers, None)):
            if layer is avg_pool and isinstance(after, Box) and after.pointwise:
                pool = layer  # computed behind the box
            elif isinstance(layer, Box):
                x, pool = apply_box(layer, x, pool=pool), None
            elif isinstance(layer, tuple):
                x = jnp.concatenate([apply_box(box, x) for box in layer], axis=-1)
            else:
                x = layer(x)
        return x


def concat_branches(
    x: Float[Array, "n h w c"], branches: Branches, *, conv: ModuleDef, train: bool
) -> Float[Array, "n h2 w2 d"]:
    """Filter concatenation: all branches on the same input, channels joined in order.

    To be called inside a module's compact `__call__`; branch i becomes `Branch_i` there.
    """
    outputs = [
        Branch(layers, conv=conv, name=f"Branch_{i}")(x, train=train)
        for i, layers in enumerate(branches)
    ]
    return jnp.concatenate(outputs, axis=-1)


class Mixed(nn.Module):
    """A block whose branches are concatenated: slim's `Mixed_*` scopes."""

    branches: Branches
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        return concat_branches(x, self.branches, conv=self.conv, train=train)
