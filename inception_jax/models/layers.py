# SPDX-License-Identifier: Apache-2.0
"""The pieces every figure of the paper is drawn with: convolution boxes, pools, branches.

A figure is written down as data: a branch is a tuple of layers from input to output,
a block is a tuple of branches (`Branch_0`, `Branch_1`, ... as in slim), and
`concat_branches` computes it. Kernel sizes are always (height, width).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.models.batch_norm import BatchNorm, Normalized, split
from inception_jax.models.pooling import avg_pool

SAME = "SAME"
VALID = "VALID"  # a "V" in the paper's figures

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
    def pointwise(self) -> bool:
        """Whether every position is mapped on its own."""
        return self.kernel == (1, 1) and self.stride == 1


Pool = Callable[[Array], Array]
# A layer of a branch: a box, a pool, or boxes side by side whose outputs are concatenated.
Layer = Box | Pool | tuple[Box, ...]
Branches = tuple[tuple[Layer, ...], ...]


def conv_for(kernel: tuple[int, int], stride: int = 1) -> ModuleDef:
    """`nn.Conv` for a kernel size; 1x1 of stride 1 is computed as a matrix product.

    Same parameters and same mathematics. XLA's convolution on a CPU takes more than twice
    as long for the gradient of a block of 1024 channels; on an H200 training with cuBLAS's
    products was 1.09 (1.08 to 1.12) times as fast.
    """
    if kernel == (1, 1) and stride == 1:
        return partial(nn.Conv, conv_general_dilated=_matrix_product)
    return nn.Conv


def _matrix_product(
    x: Array, kernel: Array, *_: object, precision: object, **__: object
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
    pool: Pool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        known: Normalized | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "n h2 w2 d"]:
        """`known`, where given, is what `jointly` gives, and only moves the averages."""
        if known is None:
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
        norm = self._norm(train=train, name="bn")
        return norm(x if known is None else known) if norm else nn.relu(x)

    @nn.nowrap
    def _norm(self, *, train: bool, **fields: Any) -> nn.Module | None:
        if self.norm is None:
            return None
        return self.norm(
            use_running_average=not train, relu=True, dtype=self.dtype, **fields
        )

    @nn.nowrap
    def jointly(
        self, x: Float[Array, "n h w c"], params: list[dict], pools: list[Pool | None]
    ) -> list[Normalized] | None:
        """What 1x1 boxes with these parameters make of x in training, each behind its pool.

        It is one matrix product, and one pool and normalisation of boxes in a row that have
        the same pool. None where the batch's statistics are not used.
        """
        norm = self._norm(train=True, parent=None)
        if norm is None or norm.use_running_average:
            return None
        kernels = [p["conv"]["kernel"].astype(self.dtype) for p in params]
        product = _matrix_product(
            x.astype(self.dtype), jnp.concatenate(kernels, axis=-1), precision=None
        )
        parts = split(product, [kernel.shape[-1] for kernel in kernels])
        norms, found = [p["bn"] for p in params], []
        for pool, group in groupby(zip(pools, parts, norms, strict=True), itemgetter(0)):
            _, inputs, bns = zip(*group, strict=True)
            joint = jnp.concatenate(inputs, axis=-1)
            scale = _joined(bns, "scale") if norm.use_scale else None
            widths = tuple(bn["bias"].size for bn in bns)
            found += norm.normalized(
                pool(joint) if pool else joint, scale, _joined(bns, "bias"), widths
            )
        return found


def _joined(trees: Sequence[dict], name: str) -> Float[Array, " c"]:
    return jnp.concatenate([tree[name] for tree in trees])


def layer_of(box: Box, conv: ModuleDef, **fields: Any) -> nn.Module:
    """A box as a module, under its name."""
    return conv(box.features, box.kernel, box.stride, box.padding, name=box.name, **fields)


class Branch(nn.Module):
    """One column of a figure: its layers one after another.

    `first`, where given, is what its first box gives: see `concat_branches`.
    """

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
        pool = None
        for layer, after in pairwise((*self.layers, None)):
            if layer is avg_pool and isinstance(after, Box) and after.pointwise:
                pool = layer  # computed behind the box
            elif isinstance(layer, Box):
                module = layer_of(layer, self.conv, pool=pool)
                x, first, pool = module(x, first, train=train), None, None
            elif isinstance(layer, tuple):
                modules = [layer_of(box, self.conv) for box in layer]
                x = jnp.concatenate([each(x, train=train) for each in modules], axis=-1)
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
    """Filter concatenation: all branches on the same input, channels joined in order.

    To be called inside the compact `__call__` of `module`; branch i becomes `Branch_i`
    there. In training, the 1x1 boxes that branches begin with are computed as one.
    """
    first = first_boxes(module, x, branches, conv) if train else {}
    outputs = [
        Branch(layers, conv=conv, name=f"Branch_{i}")(x, first.get(i), train=train)
        for i, layers in enumerate(branches)
    ]
    return jnp.concatenate(outputs, axis=-1)


def first_boxes(
    module: nn.Module, x: Float[Array, "n h w c"], branches: Branches, conv: ModuleDef
) -> dict[int, Normalized]:
    """By branch, what the 1x1 box gives that it begins with, where there are several.

    It reads `x` once, and the gradient of `x` is one product, too, not a sum of several.
    Inference of one image would take longer (1.14 times on a CPU), since the joint kernel
    is written first.
    """
    boxes = {}
    for i, (first, *after) in enumerate(branches):
        pool = avg_pool if first is avg_pool else None
        box = after[0] if pool and after else first
        if isinstance(box, Box) and box.pointwise:
            boxes[i] = (box.name, pool)
    if module.is_initializing() or len(boxes) < 2:
        return {}
    order = sorted(boxes, key=lambda i: boxes[i][1] is not None)
    params = [module.get_variable("params", f"Branch_{i}")[boxes[i][0]] for i in order]
    pools = [boxes[i][1] for i in order]
    found = conv(x.shape[-1], parent=None).jointly(x, params, pools)
    return dict(zip(order, found, strict=True)) if found else {}


class Mixed(nn.Module):
    """A block whose branches are concatenated: slim's `Mixed_*` scopes."""

    branches: Branches
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n h2 w2 d"]:
        return concat_branches(self, x, self.branches, conv=self.conv, train=train)
