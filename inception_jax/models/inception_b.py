# SPDX-License-Identifier: Apache-2.0
"""The blocks of the 17x17 grid: Fig. 5 (v4), Fig. 11 (resnet-v1), Fig. 17 (resnet-v2)."""

from inception_jax.models.layers import Box, Branches, Mixed, avg_pool
from inception_jax.models.residual import ResidualBlock

# Fig. 5 draws 1x7 twice in its third column, so that branch would see one direction only;
# slim has 1x7 then 7x1. In the fourth column slim starts with 7x1 where the figure starts
# with 1x7. The published weights have slim's order, which is used here.
FIG_5: Branches = (
    (Box("0a", 384),),
    (Box("0a", 192), Box("0b", 224, (1, 7)), Box("0c", 256, (7, 1))),
    (
        Box("0a", 192),
        Box("0b", 192, (7, 1)),
        Box("0c", 224, (1, 7)),
        Box("0d", 224, (7, 1)),
        Box("0e", 256, (1, 7)),
    ),
    (avg_pool, Box("0b", 128)),
)


def residual_b_branches(single: int, tower: tuple[int, int, int]) -> Branches:
    """Return the branches of Inception-ResNet-B with these widths, from input to output."""
    return (
        (Box("", single),),
        (Box("0a", tower[0]), Box("0b", tower[1], (1, 7)), Box("0c", tower[2], (7, 1))),
    )


FIG_11 = residual_b_branches(128, (128, 128, 128))
# Fig. 17 prints "1x1 Conv (1154 Linear)", which cannot be added to the 1152 channels that
# Reduction-A leaves; the linear layer takes its width from its input instead.
FIG_17 = residual_b_branches(192, (128, 160, 192))


class InceptionB(Mixed):
    """Inception-B of Inception-v4, 17x17x1024 to the same shape (Fig. 5)."""

    branches: Branches = FIG_5


class InceptionResNetB(ResidualBlock):
    """Inception-ResNet-B, 17x17: v1 uses `branches=FIG_11`, v2 the default, `FIG_17`."""

    branches: Branches = FIG_17
