# SPDX-License-Identifier: Apache-2.0
"""Inception-v4 (Fig. 9).

Command      python -m experiments.run inception_v4
Data         ImageNet 2012: `inception-jax data check imagenet2012`
Hardware     any GPUs or TPUs whose number divides 640; per-device batch statistics
Cost         about 1.5e+19 operations (6 x 12.25 GMACs x 1.28 M images x 160
             epochs): 12 hours of one H100 at 35 % of its peak. Not measured.
Paper        errors, top-1 / top-5: 20.0 / 5.0 one crop, 18.7 / 4.2 twelve, 17.7 / 3.8 144
             (Tables 2, 3, 4; curves in Figs 23 to 26)
Ours         not run
"""

from inception_jax.config import RunConfig

TITLE = "Inception-v4 on ImageNet"

CONFIG = RunConfig(network="inception_v4", epochs=160.0, dtype="bfloat16")
