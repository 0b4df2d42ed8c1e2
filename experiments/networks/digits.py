# SPDX-License-Identifier: Apache-2.0
"""A full network on scikit-learn's digits: every path in minutes of a laptop, offline.

Command      python -m experiments.run digits
Data         1,500 scans of 8x8 to train on, 297 to test on, enlarged to 75x75
Hardware     two CPU cores
Cost         about 6 minutes
Paper        nothing: it has ImageNet alone
Ours         97.7 % of 174 scans held out by chance; about 95 % of the test split's, which
             are of other writers (experiments/README.md)
"""

from inception_jax.config import AugmentConfig, OptimizerConfig, RunConfig

TITLE = "a full network on scikit-learn's digits, offline, minutes on a CPU"

CONFIG = RunConfig(
    network="inception_resnet_v1",
    data="digits",
    image_size=75,
    crop_fraction=1.0,  # what lies at the edge of 8x8 pixels is part of the digit
    batch_size=32,
    epochs=8.0,
    # Some hundred updates: 0.9997 would still remember the start.
    bn_decay=0.9,
    # A mirrored digit is another sign, and these have no colour; a small box is no digit.
    augment=AugmentConfig(area=(0.75, 1.0), flip=False, color=False),
    # 0.045 is for batches twenty times as large; here the loss starts with a spike.
    optimizer=OptimizerConfig(
        learning_rate=0.005, epochs_per_decay=1.0, decay_rate=0.7, ema_decay=0.99
    ),
    eval_every=2.0,
    checkpoint_every=2.0,
    log_every=10,
)
