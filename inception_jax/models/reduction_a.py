# SPDX-License-Identifier: Apache-2.0
"""Reduction-A, from the 35x35 to the 17x17 grid: Fig. 7 with the widths of Table 1."""

import flax.linen as nn
from jaxtyping import Array, Float

from inception_jax.models.layers import PLAIN, VALID, Box, Branches, LayerSet, max_pool

# k, l, m, n of Table 1.
TABLE_1 = {
    "inception_v4": (192, 224, 256, 384),
    "inception_resnet_v1": (192, 192, 256, 384),
    "inception_resnet_v2": (256, 256, 384, 384),
}


class ReductionA(nn.Module):
    """Reduction-A (Fig. 7), 35x35xc to 17x17x(n + m + c); Table 1 gives k, l, m and n."""

    k: int
    l: int  # noqa: E741  the paper's letter
    m: int
    n: int
    layers: LayerSet = PLAIN

    @property
    def branches(self) -> Branches:
        """The branches of Fig. 7 with these widths."""
        return (
            (Box("1a", self.n, (3, 3), 2, VALID),),
            (
                Box("0a", self.k),
                Box("0b", self.l, (3, 3)),
                Box("1a", self.m, (3, 3), 2, VALID),
            ),
            (max_pool,),
        )

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h2 w2 d"]:
        layers = self.layers
        return layers.concat(self, x, self.branches, conv=layers.conv, train=train)
