# SPDX-License-Identifier: Apache-2.0
"""Inception-v3 (arXiv 1512.00567), the paper's baseline.

Command      python -m experiments.run inception_v3
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         about 8.8e+18 operations (6 x 5.71 GMACs x 1.28 M images x 200
             epochs): 7 hours of one H100 at 35 % of its peak. Not measured.
Paper        errors, top-1 / top-5: 21.2 / 5.6 one crop, 19.8 / 4.6 twelve, 18.9 / 4.3 144
             (Tables 2, 3, 4; curves in Figs 21, 22, 25, 26)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-v3, the baseline, on ImageNet"

CONFIG = RunConfig(network="inception_v3", epochs=200.0, dtype="bfloat16")
