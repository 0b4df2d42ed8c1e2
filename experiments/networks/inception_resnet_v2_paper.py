# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v2 as the paper draws it (Fig. 15).

Command      python -m experiments.run inception_resnet_v2_paper
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         1.1e+19 operations. On TPU v5e:4x4, by its compiler: 3.8 of 16 GiB per chip
             with 40 images each, 160 epochs in 1.9 hours or more by the roofline, 5 as it
             expects. Not measured (python -m experiments.cost inception_resnet_v2_paper).
Paper        errors, top-1 / top-5: 19.9 / 4.9 one crop, 18.7 / 4.1 twelve, 17.8 / 3.7 144
             (of a network that cannot be this one: see `inception-jax networks compare`)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v2, as drawn, on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v2_paper", epochs=160.0, dtype="bfloat16")
