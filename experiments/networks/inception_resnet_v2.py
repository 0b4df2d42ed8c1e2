# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as its authors published it.

Command      python -m experiments.run inception_resnet_v2
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         about 1.6e+19 operations (6 x 13.16 GMACs x 1.28 M images x 160
             epochs): 13 hours of one H100 at 35 % of its peak. Not measured.
Paper        errors, top-1 / top-5: 19.9 / 4.9 one crop, 18.7 / 4.1 twelve, 17.8 / 3.7 144
             (Tables 2, 3, 4; curves in Figs 23 to 26)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as published, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2", epochs=160.0, dtype="bfloat16")
