# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as its authors published it.

Command      python -m experiments.run inception_resnet_v2
Data         ImageNet 2012; `inception-jax data check imagenet2012` checks it
Hardware     GPUs or TPUs whose number divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 1.6e+19 operations; on TPU v5e:4x4
             160 epochs take at least 2.2 hours (roofline), about 7 by the compiler's
             estimate, with 5.8 of 16 GiB per chip for 40 images (at most 256 fit)
Paper        errors, top-1 / top-5: 19.9 / 4.9 one crop, 18.7 / 4.1 twelve, 17.8 / 3.7 144
             (Tables 2, 3, 4; curves in Figs 23 to 26)
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as published, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2", epochs=160.0, dtype="bfloat16")
