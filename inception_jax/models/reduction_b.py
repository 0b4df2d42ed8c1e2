# SPDX-License-Identifier: Apache-2.0
"""Reduction-B, from the 17x17 to the 8x8 grid: Figs 8 (v4), 12 (resnet-v1), 18 (v2)."""

from inception_jax.models.layers import VALID, Box, Branches, Mixed, max_pool

FIG_8: Branches = (
    (Box("0a", 192), Box("1a", 192, (3, 3), 2, VALID)),
    (
        Box("0a", 256),
        Box("0b", 256, (1, 7)),
        Box("0c", 320, (7, 1)),
        Box("1a", 320, (3, 3), 2, VALID),
    ),
    (max_pool,),
)

FIG_12: Branches = (
    (Box("0a", 256), Box("1a", 384, (3, 3), 2, VALID)),
    (Box("0a", 256), Box("1a", 256, (3, 3), 2, VALID)),
    (Box("0a", 256), Box("0b", 256, (3, 3)), Box("1a", 256, (3, 3), 2, VALID)),
    (max_pool,),
)

# The caption says "wider Inception-ResNet-v1", which is v2.
FIG_18: Branches = (
    (Box("0a", 256), Box("1a", 384, (3, 3), 2, VALID)),
    (Box("0a", 256), Box("1a", 288, (3, 3), 2, VALID)),
    (Box("0a", 256), Box("0b", 288, (3, 3)), Box("1a", 320, (3, 3), 2, VALID)),
    (max_pool,),
)


class ReductionB(Mixed):
    """Reduction-B of Inception-v4, 17x17x1024 to 8x8x1536 (Fig. 8)."""

    branches: Branches = FIG_8


class InceptionResNetReductionB(Mixed):
    """Reduction-B of the residual networks: `FIG_12` for v1, `FIG_18` (default) for v2."""

    branches: Branches = FIG_18
