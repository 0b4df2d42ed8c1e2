# SPDX-License-Identifier: Apache-2.0
"""The blocks of Inception-v3, the baseline of the paper's Tables 2 to 5.

Figure numbers here refer to "Rethinking the Inception Architecture for Computer Vision"
(arXiv 1512.00567). Its figures and its Table 1 differ from the published network; all
numbers follow slim/nets/inception_v3.py.

Names are slim's, except for five that are inconsistent in slim. Ours -> slim's:

    Mixed_5c/Branch_1/Conv2d_0a_1x1 -> Conv2d_0b_1x1
    Mixed_5c/Branch_1/Conv2d_0b_5x5 -> Conv_1_0c_5x5
    Mixed_6a/Branch_0/Conv2d_1a_3x3 -> Conv2d_1a_1x1
    Mixed_6a/Branch_1/Conv2d_1a_3x3 -> Conv2d_1a_1x1
    Mixed_7b/Branch_1/Conv2d_0c_3x1 -> Conv2d_0b_3x1
"""

from functools import partial

from inception_jax.models.layers import VALID, Box, Branches, Mixed, avg_pool, max_pool
from inception_jax.models.spec import Stage


def v3_a_branches(pooled: int) -> Branches:
    """Return the branches of the 35x35 grid with `pooled` filters after the pool.

    Fig. 5 has a 3x3 where slim, like every published weight file, has the 5x5.
    """
    return (
        (Box("0a", 64),),
        (Box("0a", 48), Box("0b", 64, (5, 5))),
        (Box("0a", 64), Box("0b", 96, (3, 3)), Box("0c", 96, (3, 3))),
        (avg_pool, Box("0b", pooled)),
    )


def v3_b_branches(width: int) -> Branches:
    """Return the branches of the 17x17 grid: Fig. 6 with n = 7 and `width` filters."""
    return (
        (Box("0a", 192),),
        (Box("0a", width), Box("0b", width, (1, 7)), Box("0c", 192, (7, 1))),
        (
            Box("0a", width),
            Box("0b", width, (7, 1)),
            Box("0c", width, (1, 7)),
            Box("0d", width, (7, 1)),
            Box("0e", 192, (1, 7)),
        ),
        (avg_pool, Box("0b", 192)),
    )


# Fig. 10 has an additional 1x1 before the single 3x3.
MIXED_6A: Branches = (
    (Box("1a", 384, (3, 3), 2, VALID),),
    (Box("0a", 64), Box("0b", 96, (3, 3)), Box("1a", 96, (3, 3), 2, VALID)),
    (max_pool,),
)

# Fig. 10 with 1x7 and 7x1 in place of the first 3x3 of the longest column.
MIXED_7A: Branches = (
    (Box("0a", 192), Box("1a", 320, (3, 3), 2, VALID)),
    (
        Box("0a", 192),
        Box("0b", 192, (1, 7)),
        Box("0c", 192, (7, 1)),
        Box("1a", 192, (3, 3), 2, VALID),
    ),
    (max_pool,),
)

FIG_7: Branches = (
    (Box("0a", 320),),
    (Box("0a", 384), (Box("0b", 384, (1, 3)), Box("0c", 384, (3, 1)))),
    (
        Box("0a", 448),
        Box("0b", 384, (3, 3)),
        (Box("0c", 384, (1, 3)), Box("0d", 384, (3, 1))),
    ),
    (avg_pool, Box("0b", 192)),
)


class InceptionV3A(Mixed):
    """Block of the 35x35 grid (Fig. 5), 288 channels; `v3_a_branches(32)` gives 256."""

    branches: Branches = v3_a_branches(64)


class InceptionV3ReductionA(Mixed):
    """Mixed_6a, 35x35x288 to 17x17x768 (Fig. 10)."""

    branches: Branches = MIXED_6A


class InceptionV3B(Mixed):
    """Block of the 17x17 grid, 768 channels to 768 (Fig. 6): `v3_b_branches(width)`."""

    branches: Branches = v3_b_branches(192)


class InceptionV3ReductionB(Mixed):
    """Mixed_7a, 17x17x768 to 8x8x1280 (Fig. 10)."""

    branches: Branches = MIXED_7A


class InceptionV3C(Mixed):
    """Block of the 8x8 grid, to 2048 channels (Fig. 7)."""

    branches: Branches = FIG_7


# Where 1512.00567 draws the blocks.
DRAWN_A, DRAWN_B = "like 1512.00567, Fig. 5", "1512.00567, Fig. 6"
DRAWN_C, DRAWN_REDUCTION = "1512.00567, Fig. 7", "like 1512.00567, Fig. 10"
A_32 = partial(InceptionV3A, branches=v3_a_branches(32))
B_128 = partial(InceptionV3B, branches=v3_b_branches(128))
B_160 = partial(InceptionV3B, branches=v3_b_branches(160))

INCEPTION_V3_STAGES = (
    Stage("A", A_32, ("Mixed_5b",), DRAWN_A),
    Stage("A", InceptionV3A, ("Mixed_5c", "Mixed_5d"), DRAWN_A),
    Stage("Reduction-A", InceptionV3ReductionA, ("Mixed_6a",), DRAWN_REDUCTION),
    Stage("B", B_128, ("Mixed_6b",), DRAWN_B),
    Stage("B", B_160, ("Mixed_6c", "Mixed_6d"), DRAWN_B),
    Stage("B", InceptionV3B, ("Mixed_6e",), DRAWN_B),
    Stage("Reduction-B", InceptionV3ReductionB, ("Mixed_7a",), DRAWN_REDUCTION),
    Stage("C", InceptionV3C, ("Mixed_7b", "Mixed_7c"), DRAWN_C),
)
