# SPDX-License-Identifier: Apache-2.0
"""Inception-v4 (Fig. 9).

Command      python -m experiments.run inception_v4
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         1.5e+19 operations. On TPU v5e:4x4, by its compiler: 4.1 of 16 GiB per chip
             with 40 images each (at most 512 fit), 160 epochs in 2.0 hours or more by the
             roofline, 6 as it expects. Not measured (python -m experiments.cost
             inception_v4).
Paper        errors, top-1 / top-5: 20.0 / 5.0 one crop, 18.7 / 4.2 twelve, 17.7 / 3.8 144
             (Tables 2, 3, 4; curves in Figs 23 to 26)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-v4 on ImageNet"

CONFIG = RunConfig(network="inception_v4", epochs=160.0, dtype="bfloat16")
