# SPDX-License-Identifier: Apache-2.0
"""The blocks of the 35x35 grid: Fig. 4 (v4), Fig. 10 (resnet-v1), Fig. 16 (resnet-v2)."""

from inception_jax.models.layers import Box, Branches, Mixed, avg_pool
from inception_jax.models.residual import ResidualBlock

FIG_4: Branches = (
    (Box("0a", 96),),
    (Box("0a", 64), Box("0b", 96, (3, 3))),
    (Box("0a", 64), Box("0b", 96, (3, 3)), Box("0c", 96, (3, 3))),
    (avg_pool, Box("0b", 96)),
)


def residual_a_branches(
    single: int, double: tuple[int, int], triple: tuple[int, int, int]
) -> Branches:
    """Return the branches of Inception-ResNet-A with these widths, from input to output."""
    return (
        (Box("", single),),
        (Box("0a", double[0]), Box("0b", double[1], (3, 3))),
        (Box("0a", triple[0]), Box("0b", triple[1], (3, 3)), Box("0c", triple[2], (3, 3))),
    )


FIG_10 = residual_a_branches(32, (32, 32), (32, 32, 32))
FIG_16 = residual_a_branches(32, (32, 32), (32, 48, 64))


class InceptionA(Mixed):
    """Inception-A of Inception-v4, 35x35x384 to the same shape (Fig. 4)."""

    branches: Branches = FIG_4


class InceptionResNetA(ResidualBlock):
    """Inception-ResNet-A, 35x35: v1 uses `branches=FIG_10`, v2 the default, `FIG_16`."""

    branches: Branches = FIG_16
