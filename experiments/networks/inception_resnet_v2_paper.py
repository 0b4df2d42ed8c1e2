# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as the paper draws it (Fig. 15).

Command      python -m experiments.run inception_resnet_v2_paper
Data         ImageNet 2012; check with `inception-jax data check imagenet2012`
Hardware     any number of GPUs or TPUs that divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 1.1e+19 operations; on TPU v5e:4x4
             160 epochs take at least 1.9 hours (roofline), about 5 by the compiler's
             estimate. Memory: 3.8 of 16 GiB per chip with 40 images per chip
Paper        errors, top-1 / top-5: 19.9 / 4.9 (1 crop), 18.7 / 4.1 (12 crops),
             17.8 / 3.7 (144 crops), which cannot come from this network; see
             `inception-jax networks compare`
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as drawn, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2_paper", epochs=160.0, dtype="bfloat16")
