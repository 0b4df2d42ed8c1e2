# SPDX-License-Identifier: Apache-2.0
"""The stems: Fig. 3 (v4, resnet-v2 as drawn), Fig. 14 (resnet-v1), v3's, published v2's.

A stem returns its output and its endpoints, under slim's names.
"""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from inception_jax.models.layers import (
    PLAIN,
    VALID,
    Box,
    Branches,
    LayerSet,
    Mixed,
    ModuleDef,
    Pool,
    avg_pool,
    layer_of,
    max_pool,
)

Endpoints = dict[str, Float[Array, "..."]]
Steps = tuple[tuple[str, Box | Pool | Branches], ...]

# Figs 3 and 14 share the first three boxes.
OPENING = (
    Box("1a", 32, (3, 3), 2, VALID),
    Box("2a", 32, (3, 3), 1, VALID),
    Box("2b", 64, (3, 3)),
)

# Fig. 3 from the first to the last filter concatenation.
FIG_3_MIXED_3A: Branches = ((max_pool,), (Box("0a", 96, (3, 3), 2, VALID),))
# The figure has 7x1 before 1x7; slim has 1x7 first.
FIG_3_MIXED_4A: Branches = (
    (Box("0a", 64), Box("1a", 96, (3, 3), 1, VALID)),
    (
        Box("0a", 64),
        Box("0b", 64, (1, 7)),
        Box("0c", 64, (7, 1)),
        Box("1a", 96, (3, 3), 1, VALID),
    ),
)
# The figure prints "3x3 Conv (192 V)" without the stride of 2 that 71x71 -> 35x35 needs.
FIG_3_MIXED_5A: Branches = ((Box("1a", 192, (3, 3), 2, VALID),), (max_pool,))

# 35x35x192 -> 35x35x320 of the published Inception-ResNet-v2; not in the paper.
PUBLISHED_V2_MIXED_5B: Branches = (
    (Box("", 96),),
    (Box("0a", 48), Box("0b", 64, (5, 5))),
    (Box("0a", 64), Box("0b", 96, (3, 3)), Box("0c", 96, (3, 3))),
    (avg_pool, Box("0b", 64)),
)


class Stem(nn.Module):
    """Layers and blocks one after another; the output of each is an endpoint."""

    steps: Steps
    layers: LayerSet = PLAIN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "n h2 w2 d"], Endpoints]:
        endpoints = {}
        for name, step in self.steps:
            if isinstance(step, Box):
                x = layer_of(step, self.layers.conv)(x, train=train)
            elif isinstance(step, tuple):
                x = Mixed(step, self.layers, name=name)(x, train=train)
            else:
                with jax.named_scope(name):
                    x = self.layers.max_pool(x) if step is max_pool else step(x)
            endpoints[name] = x
        return x, endpoints


def _boxes(*boxes: Box) -> tuple[tuple[str, Box], ...]:
    return tuple((box.name, box) for box in boxes)


class InceptionV4Stem(Stem):
    """Stem of Inception-v4 and of Inception-ResNet-v2 as drawn (Fig. 3): 35x35x384."""

    steps: Steps = (
        *_boxes(*OPENING),
        ("Mixed_3a", FIG_3_MIXED_3A),
        ("Mixed_4a", FIG_3_MIXED_4A),
        ("Mixed_5a", FIG_3_MIXED_5A),
    )


class InceptionResNetV1Stem(Stem):
    """Stem of Inception-ResNet-v1 (Fig. 14): 35x35x256."""

    steps: Steps = (
        *_boxes(*OPENING),
        ("MaxPool_3a_3x3", max_pool),
        *_boxes(
            Box("3b", 80),
            Box("4a", 192, (3, 3), 1, VALID),
            Box("4b", 256, (3, 3), 2, VALID),
        ),
    )


class InceptionV3Stem(Stem):
    """Stem of Inception-v3: 35x35x192. Source: slim/nets/inception_v3.py.

    It is the stem of Fig. 14 with a pool instead of the last convolution. Table 1 of arXiv
    1512.00567 has three 3x3 convolutions where this stem, like every published weight file,
    has `Conv2d_3b_1x1`, `Conv2d_4a_3x3` and the pool.
    """

    steps: Steps = (
        *_boxes(*OPENING),
        ("MaxPool_3a_3x3", max_pool),
        *_boxes(Box("3b", 80), Box("4a", 192, (3, 3), 1, VALID)),
        ("MaxPool_5a_3x3", max_pool),
    )


class PublishedInceptionResNetV2Stem(Stem):
    """Stem of the published Inception-ResNet-v2 (slim, Keras, timm): 35x35x320.

    It is the stem of Inception-v3 followed by the block `Mixed_5b`. Source:
    slim/nets/inception_resnet_v2.py.
    """

    steps: Steps = (*InceptionV3Stem.steps, ("Mixed_5b", PUBLISHED_V2_MIXED_5B))


def small_image_stem(width: int) -> ModuleDef:
    """Return a stem for images of 8 to 64 pixels: `width` channels at half the size.

    It is not in the paper. It has two convolutions, so that the instability study can train
    residual blocks on small images.
    """
    steps = _boxes(Box("1a", 32, (3, 3)), Box("2a", width, (2, 2), 2, VALID))
    return partial(Stem, steps=steps)


def paper_width_stem(width: int) -> ModuleDef:
    """Return a stem for images of about 40 pixels: two convolutions to 9x9x`width`.

    It is not in the paper. It serves blocks of the published widths on a small grid.
    """
    steps = _boxes(Box("1a", 32, (3, 3), 2, VALID), Box("2a", width, (3, 3), 2, VALID))
    return partial(Stem, steps=steps)
