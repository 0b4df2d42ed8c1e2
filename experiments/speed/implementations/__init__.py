# SPDX-License-Identifier: Apache-2.0
"""One module for each implementation that is compared.

A module has `build(case) -> BuiltCase`. It raises ImportError, naming what to install, if
its library is missing, and ValueError if the library does not have the network. To add an
implementation, add a module here and its name to `IMPLEMENTATIONS`.
"""

IMPLEMENTATIONS = ("ours", "plain", "timm", "keras")  # in the order of the tables
REFERENCE = "ours"  # ratios are its images/s over those of another implementation
# Keras's names of the networks that it has.
KERAS = {"inception_resnet_v2": "InceptionResNetV2", "inception_v3": "InceptionV3"}
MISSING = '{} is missing: pip install "inception_jax[bench]"'
