# SPDX-License-Identifier: Apache-2.0
"""The settings that claims and plans are built from, all at the paper's learning rate.

To change one field of a setting, use `dataclasses.replace`.
"""

from dataclasses import replace
from typing import Any

from experiments.residual_scaling.design.runs import FULL_WIDTHS, Run

# The weight decay is TF-slim's; the paper does not name one.
WEIGHT_DECAY = 4e-5

# Inception-ResNet-v2 as drawn in the paper, unscaled, on images of 75x75 pixels.
FULL = Run(
    network="inception_resnet_v2_paper",
    width=FULL_WIDTHS["inception_resnet_v2_paper"],
    image_size=75,
    init="glorot",  # as published
    weight_decay=WEIGHT_DECAY,
    batch_size=16,
    probe_first=10,
)
V1 = replace(FULL, network="inception_resnet_v1", width=FULL_WIDTHS["inception_resnet_v1"])
# No residual blocks, so `scale` has no effect.
V4 = replace(FULL, network="inception_v4", width=FULL_WIDTHS["inception_v4"])
# A 1x1 convolution with batch normalisation and ReLU precedes the pool.
PUBLISHED = replace(
    FULL, network="inception_resnet_v2", width=FULL_WIDTHS["inception_resnet_v2"]
)
# Zero linear 1x1 convolutions make every block start as the identity, and the replicas of
# asynchronous training join one after another, as TF-slim's trainer starts them.
HARMLESS = replace(FULL, init_gain=0.0, replicas=8, stagger=15, steps=200)
# Changes of a full network for the main job, which has to end within 15 minutes.
SHORTER: dict[str, Any] = {"steps": 30, "probe_first": 0}

# Ten C blocks of Fig. 13 with 16 filters per convolution, on images of 8x8 pixels.
NARROW = Run(width=256, weight_decay=WEIGHT_DECAY, steps=160)
STALE = replace(NARROW, replicas=8)  # asynchronous training with stale gradients
DEEP = replace(STALE, scale=0.3)
# Generated data that do not run out, for runs of many updates.
PLATEAU = replace(NARROW, data="endless", width=64, steps=2000, probe_every=100)
LATE = replace(
    NARROW, data="endless", init_gain=0.0, steps=30_000, probe_every=250, probe_first=10
)
# Long enough to learn the digits.
LEARNING = replace(NARROW, steps=400)
