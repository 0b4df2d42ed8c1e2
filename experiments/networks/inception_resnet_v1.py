# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v1 (Fig. 15).

Command      python -m experiments.run inception_resnet_v1
Data         ImageNet 2012; check with `inception-jax data check imagenet2012`
Hardware     any number of GPUs or TPUs that divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 9.5e+18 operations; on TPU v5e:4x4
             200 epochs take at least 1.6 hours (roofline), about 5 by the compiler's
             estimate. Memory: 2.9 of 16 GiB per chip with 40 images per chip
Paper        errors, top-1 / top-5: 21.3 / 5.5 (1 crop), 19.8 / 4.6 (12 crops),
             18.8 / 4.3 (144 crops); Tables 2 to 4, curves in Figs 21, 22, 25, 26
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v1 on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v1", epochs=200.0, dtype="bfloat16")
