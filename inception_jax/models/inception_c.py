# SPDX-License-Identifier: Apache-2.0
"""The blocks of the 8x8 grid: Fig. 6 (v4), Fig. 13 (resnet-v1), Fig. 19 (resnet-v2)."""

from functools import partial

from inception_jax.models.layers import Box, Branches, Mixed, avg_pool
from inception_jax.models.residual import ResidualBlock
from inception_jax.models.spec import Stage, residual_stage

# In the third column the figure has 1x3 before 3x1. slim, like every published weight file,
# has 3x1 before 1x3 and concatenates the final 1x3 first.
FIG_6: Branches = (
    (Box("0a", 256),),
    (Box("0a", 384), (Box("0b", 256, (1, 3)), Box("0c", 256, (3, 1)))),
    (
        Box("0a", 384),
        Box("0b", 448, (3, 1)),
        Box("0c", 512, (1, 3)),
        (Box("0d", 256, (1, 3)), Box("0e", 256, (3, 1))),
    ),
    (avg_pool, Box("0b", 256)),
)


def residual_c_branches(single: int, tower: tuple[int, int, int]) -> Branches:
    """Return the branches of Inception-ResNet-C with these widths, from input to output."""
    return (
        (Box("", single),),
        (Box("0a", tower[0]), Box("0b", tower[1], (1, 3)), Box("0c", tower[2], (3, 1))),
    )


FIG_13 = residual_c_branches(192, (192, 192, 192))
# Fig. 19 prints "1x1 Conv (2048 Linear)", which cannot be added to the 2144 channels that
# Fig. 18 leaves; the linear layer takes its width from its input instead.
FIG_19 = residual_c_branches(192, (192, 224, 256))


class InceptionC(Mixed):
    """Inception-C of Inception-v4, 8x8x1536 to the same shape (Fig. 6)."""

    branches: Branches = FIG_6


class InceptionResNetC(ResidualBlock):
    """Inception-ResNet-C, 8x8: v1 uses `branches=FIG_13`, v2 the default, `FIG_19`."""

    branches: Branches = FIG_19


def published_last(branches: Branches) -> Stage:
    """Return slim's and facenet's last C block: scale 1, no ReLU; not in the paper."""
    block = partial(InceptionResNetC, relu=False)
    return residual_stage("C, last", block, branches, "not in the paper", ("Block8",), 1.0)
