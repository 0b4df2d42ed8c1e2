# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v1 on scikit-learn's digits: offline, in minutes on a laptop.

Command      python -m experiments.run digits
Data         1,500 training and 297 test scans of 8x8 pixels, enlarged to 75x75
Hardware     two CPU cores
Cost         measured: about 6 minutes
Paper        no result: the paper uses ImageNet only
Ours         top-1 97.7 % on a random split of 174 scans and 97.0 % on the 297 test scans,
             which are by other writers (experiments/networks/README.md)
"""

from inception_jax.config import AugmentConfig, OptimizerConfig, RunConfig

TITLE = "Inception-ResNet-v1 on scikit-learn's digits: offline, in minutes on a CPU"

CONFIG = RunConfig(
    network="inception_resnet_v1",
    data="digits",
    image_size=75,
    crop_fraction=1.0,  # digits reach the edges of their 8x8 pixels
    batch_size=32,
    epochs=8.0,
    # After only a few hundred steps, moving averages with decay 0.9997 would still be
    # dominated by their initial values.
    bn_decay=0.9,
    # A mirrored digit is another character, scans have no colour, and a small crop may cut
    # off part of the digit.
    augment=AugmentConfig(area=(0.75, 1.0), flip=False, color=False),
    # 0.045 is for batches of 640 images; with 32 images the loss would spike.
    optimizer=OptimizerConfig(
        learning_rate=0.005, epochs_per_decay=1.0, decay_rate=0.7, ema_decay=0.99
    ),
    eval_every=2.0,
    checkpoint_every=2.0,
    log_every=10,
)
