# SPDX-License-Identifier: Apache-2.0
"""Recipes: one file for each network of the paper, and one for the digits.

The ImageNet recipes train as the paper does: RMSProp with decay 0.9 and epsilon 1.0, a
learning rate of 0.045 that is multiplied by 0.94 every two epochs, and averaged weights.
The numbers of epochs are those of the paper's figures. The paper does not give batch size,
weight decay, label smoothing, augmentation and initialisation; these are TF-slim's, with
sources in `inception_jax.config`. bfloat16 is our choice.
"""

from types import ModuleType

from experiments.networks import (
    digits,
    inception_resnet_v1,
    inception_resnet_v2,
    inception_resnet_v2_paper,
    inception_v3,
    inception_v4,
)

RECIPES: dict[str, ModuleType] = {
    "inception_v3": inception_v3,
    "inception_v4": inception_v4,
    "inception_resnet_v1": inception_resnet_v1,
    "inception_resnet_v2": inception_resnet_v2,
    "inception_resnet_v2_paper": inception_resnet_v2_paper,
    "digits": digits,
}
