# SPDX-License-Identifier: Apache-2.0
"""The scaled residual sum of section 3.3 and the block built around it (Fig. 20)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.models.batch_norm import BatchNorm
from inception_jax.models.layers import (
    Branches,
    ConvBN,
    ModuleDef,
    concat_branches,
    conv_for,
)

Scale = float | Float[Array, ""]


def check_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, in one sentence, if the option `name` is not one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


@jax.custom_vjp
def relu(x: Array) -> Array:
    """ReLU with a gradient that is told from its output: of a sum, one map is kept for it
    and read, not the two summands.

    Where the output is not 0: XLA makes relu(x) > 0 to x > 0, and keeps x as well.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = relu(x)
    return y, y


relu.defvjp(_relu_forward, lambda y, dy: (jnp.where(y != 0, dy, 0),))


@dataclass(frozen=True)
class ResidualOptions:
    """What a residual block can have that the paper's has not; the defaults are its own.

    Raises ValueError for an unknown name.
    """

    # A trained factor `learned_scale` on the residual, on top of the given scale: one
    # number (SkipInit, 2002.10444; ReZero, 2003.04887) or one per channel (LayerScale,
    # 2103.17239).
    learned_scale: Literal["none", "scalar", "channel"] = "none"
    learned_scale_init: float = 1.0
    # Batch normalisation after the linear 1x1, with no ReLU behind it.
    norm: bool = False
    # On the sum. "pre" is pre-activation (1603.05027): the branches read relu(x) and the
    # sums have no activation, but for that of a grid's last block, so that reductions and
    # the pool still see a ReLU'd map.
    activation: Literal["relu", "leaky_relu", "pre"] = "relu"
    # False leaves x out of the sum: an Inception network of the same parameters and cost.
    shortcut: bool = True

    def __post_init__(self) -> None:
        known = ("none", "scalar", "channel")
        check_known("learned_scale", self.learned_scale, known)
        check_known("activation", self.activation, ("relu", "leaky_relu", "pre"))

    @property
    def nonlinearity(self) -> Callable[[Array], Array]:
        """What is applied to the sum, where anything is."""
        return nn.leaky_relu if self.activation == "leaky_relu" else relu


PAPER = ResidualOptions()


def residual_sum(
    x: Float[Array, "n h w c"],
    residual: Float[Array, "n h w c"],
    activation: Callable[[Array], Array] | None = relu,
) -> Float[Array, "n h w c"]:
    """`relu(x + residual)`, the sum of Fig. 20, of a residual that is already scaled.

    There is no batch normalisation on top of the sum (section 3.2). No activation is the
    last block of the published networks.
    """
    # As matrices: on a GPU, XLA then has the product before the sum add x, the bias and the
    # ReLU as well, forwards, and the other gradient of x, backwards. Of maps it would add
    # to a copy.
    matrix = -1, x.shape[-1]
    total = x.reshape(matrix) + residual.reshape(matrix)
    return (activation(total) if activation else total).reshape(x.shape)


class ResidualBlock(nn.Module):
    """Branches, a linear 1x1 convolution back to the width of the input, and the sum.

    The linear convolution (`Conv2d_1x1`) has a bias and no batch normalisation, as in
    slim and facenet; the paper calls it "filter-expansion layer ... without activation".
    The scaled residual is sown as `residual` into the collection "intermediates", which
    costs nothing where that is not mutable. Without a `norm`, all that would follow the
    linear convolution up to the sum is folded into it.
    """

    branches: Branches
    relu: bool = True  # False: the sum has no activation, whatever the options say
    last: bool = False  # of its grid: a reduction or the head reads its output
    options: ResidualOptions = PAPER
    conv: ModuleDef = ConvBN
    norm: ModuleDef | None = BatchNorm
    dtype: DTypeLike = jnp.float32
    residual_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], scale: Scale = 1.0, *, train: bool = False
    ) -> Float[Array, "n h w c"]:
        options, channels = self.options, x.shape[-1]
        before = options.activation == "pre"
        inputs = nn.relu(x) if before else x
        residual = concat_branches(self, inputs, self.branches, conv=self.conv, train=train)
        factor = self._factor(scale, channels)
        residual = conv_for((1, 1))(
            channels,
            (1, 1),
            dtype=self.dtype,
            kernel_init=self.residual_init,
            promote_dtype=promote_dtype
            if options.norm
            else partial(_scaled_weights, factor),
            name="Conv2d_1x1",
        )(residual)
        if options.norm and self.norm:
            norm = self.norm(use_running_average=not train, dtype=self.dtype, name="bn")
            residual = factor.astype(self.dtype) * norm(residual)
        self.sow("intermediates", "residual", residual)
        active = self.relu and (self.last or not before)
        return residual_sum(
            x if options.shortcut else jnp.zeros_like(x),
            residual,
            options.nonlinearity if active else None,
        )

    def _factor(self, scale: Scale, channels: int) -> Float[Array, "1 1 1 _"]:
        """What the residual is multiplied with, one number or one for each channel."""
        kind, factor = self.options.learned_scale, scale if self.norm else 1.0
        if self.norm and kind != "none":
            init = nn.initializers.constant(self.options.learned_scale_init)
            shape = (channels,) if kind == "channel" else ()
            factor *= self.param("learned_scale", init, shape)
        return jnp.reshape(jnp.asarray(factor, jnp.float32), (1, 1, 1, -1))


def _scaled_weights(
    factor: Float[Array, "1 1 1 _"],
    x: Array,
    kernel: Array,
    bias: Array,
    *,
    dtype: DTypeLike,
) -> list[Array | None]:
    """A linear layer's input and weights in `dtype`, so that its output is `factor` times
    as large: that takes no pass over the output, forwards or backwards."""
    return promote_dtype(x, kernel * factor, bias * factor.reshape(-1), dtype=dtype)
