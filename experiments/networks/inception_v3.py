# SPDX-License-Identifier: Apache-2.0
"""Inception-v3 (arXiv 1512.00567), the paper's baseline.

Command      python -m experiments.run inception_v3
Data         ImageNet 2012; `inception-jax data check imagenet2012` checks it
Hardware     GPUs or TPUs whose number divides 640; batch statistics per device
Cost         estimated by experiments.cost, not measured: 8.5e+18 operations; on TPU v5e:4x4
             200 epochs take at least 1.6 hours (roofline), about 5 by the compiler's
             estimate, with 2.8 of 16 GiB per chip for 40 images
Paper        errors, top-1 / top-5: 21.2 / 5.6 one crop, 19.8 / 4.6 twelve, 18.9 / 4.3 144
             (Tables 2, 3, 4; curves in Figs 21, 22, 25, 26)
Ours         not run yet
"""

from inception_jax.config import RunConfig

TITLE = "Inception-v3, the baseline, on ImageNet"

CONFIG = RunConfig(network="inception_v3", epochs=200.0, dtype="bfloat16")
