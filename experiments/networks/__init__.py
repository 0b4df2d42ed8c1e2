# SPDX-License-Identifier: Apache-2.0
"""Recipes: one file for each network of the paper, and one for data that is here.

On ImageNet, what the paper says of training is followed: RMSProp with decay 0.9 and
epsilon 1.0, a learning rate of 0.045, times 0.94 every two epochs, a running average of
the parameters. It gives no batch size, epochs (here: the end of the figures' axis), weight
decay, label smoothing, augmentation or initialisation; those are slim's, with their source
in `inception_jax.config`. bfloat16 is ours.
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
