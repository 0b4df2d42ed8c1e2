# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as the paper draws it (Fig. 15).

Command      python -m experiments.run inception_resnet_v2_paper
Data         ImageNet 2012; `inception-jax data check imagenet2012` checks it
Hardware     GPUs or TPUs whose number divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 1.1e+19 operations; on TPU v5e:4x4
             160 epochs take at least 1.9 hours (roofline), about 5 by the compiler's
             estimate, with 3.8 of 16 GiB per chip for 40 images
Paper        errors, top-1 / top-5: 19.9 / 4.9 one crop, 18.7 / 4.1 twelve, 17.8 / 3.7 144
             (of a network that cannot be this one; `inception-jax networks compare`
             shows the differences)
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as drawn, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2_paper", epochs=160.0, dtype="bfloat16")
