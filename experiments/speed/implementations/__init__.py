# SPDX-License-Identifier: Apache-2.0
"""One file for each side of the comparison.

A side has `build(case) -> Built`. It raises ImportError, naming what to install, where its
library is missing, and ValueError where it has no such network or task. Another side, such
as one of folded weights for inference, is a file here and its name in `IMPLEMENTATIONS`.
"""

# In the order of the tables; ratios are of the first to the others.
IMPLEMENTATIONS = ("ours", "plain", "timm", "keras")
# Keras's names of the networks it has.
KERAS = {"inception_resnet_v2": "InceptionResNetV2", "inception_v3": "InceptionV3"}
MISSING = '{} is missing: pip install "inception_jax[bench]"'
