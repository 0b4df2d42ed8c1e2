# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as its authors published it.

Command      python -m experiments.run inception_resnet_v2
Data         ImageNet 2012; check with `inception-jax data check imagenet2012`
Hardware     any number of GPUs or TPUs that divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 1.6e+19 operations; on TPU v5e:4x4
             160 epochs take at least 2.2 hours (roofline), about 7 by the compiler's
             estimate. Memory: 5.8 of 16 GiB per chip with 40 images per chip (up to 256
             would fit)
Paper        errors, top-1 / top-5: 19.9 / 4.9 (1 crop), 18.7 / 4.1 (12 crops),
             17.8 / 3.7 (144 crops); Tables 2 to 4, curves in Figs 23 to 26
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as published, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2", epochs=160.0, dtype="bfloat16")
