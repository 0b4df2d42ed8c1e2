# SPDX-License-Identifier: Apache-2.0
"""Inception-ResNet-v1 (Fig. 15).

Command      python -m experiments.run inception_resnet_v1
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         9.5e+18 operations. On TPU v5e:4x4, by its compiler: 2.9 of 16 GiB per chip
             with 40 images each, 200 epochs in 1.6 hours or more by the roofline, 5 as it
             expects. Not measured (python -m experiments.cost inception_resnet_v1).
Paper        errors, top-1 / top-5: 21.3 / 5.5 one crop, 19.8 / 4.6 twelve, 18.8 / 4.3 144
             (Tables 2, 3, 4; curves in Figs 21, 22, 25, 26)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-ResNet-v1 on ImageNet"

CONFIG = RunConfig(network="inception_resnet_v1", epochs=200.0, dtype="bfloat16")
