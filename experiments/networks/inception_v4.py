# SPDX-License-Identifier: Apache-2.0
"""Inception-v4 (Fig. 9).

Command      python -m experiments.run inception_v4
Data         ImageNet 2012; check with `inception-jax data check imagenet2012`
Hardware     any number of GPUs or TPUs that divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 1.5e+19 operations; on TPU v5e:4x4
             160 epochs take at least 2.0 hours (roofline), about 6 by the compiler's
             estimate. Memory: 4.1 of 16 GiB per chip with 40 images per chip (up to 512
             would fit)
Paper        errors, top-1 / top-5: 20.0 / 5.0 (1 crop), 18.7 / 4.2 (12 crops),
             17.7 / 3.8 (144 crops); Tables 2 to 4, curves in Figs 23 to 26
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-v4 on ImageNet"

CONFIG = RunConfig(network="inception_v4", epochs=160.0, dtype="bfloat16")
