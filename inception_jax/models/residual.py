# SPDX-License-Identifier: Apache-2.0
"""The scaled residual sum of section 3.3 and the block built around it (Fig. 20)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.models.layers import (
    Branches,
    ConvBN,
    ModuleDef,
    concat_branches,
    conv_for,
)

Scale = float | Float[Array, ""]


def residual_sum(
    x: Float[Array, "n h w c"],
    residual: Float[Array, "n h w c"],
    scale: Scale,
    *,
    relu: bool = True,
) -> Float[Array, "n h w c"]:
    """`relu(x + scale * residual)`, the sum of Fig. 20; `scale` may be traced.

    There is no batch normalisation on top of the sum (section 3.2). `relu=False` is the
    last block of the published networks.
    """
    total = x + jnp.asarray(scale, x.dtype) * residual
    return nn.relu(total) if relu else total


class ResidualBlock(nn.Module):
    """Branches, a linear 1x1 convolution back to the width of the input, and the sum.

    The linear convolution (`Conv2d_1x1`) has a bias and no batch normalisation, as in
    slim and facenet; the paper calls it "filter-expansion layer ... without activation".
    """

    branches: Branches
    relu: bool = True
    conv: ModuleDef = ConvBN
    dtype: DTypeLike = jnp.float32
    residual_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], scale: Scale = 1.0, *, train: bool = False
    ) -> Float[Array, "n h w c"]:
        residual = concat_branches(x, self.branches, conv=self.conv, train=train)
        residual = conv_for((1, 1))(
            x.shape[-1],
            (1, 1),
            dtype=self.dtype,
            kernel_init=self.residual_init,
            name="Conv2d_1x1",
        )(residual)
        return residual_sum(x, residual, scale, relu=self.relu)
