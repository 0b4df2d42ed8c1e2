# SPDX-License-Identifier: Apache-2.0
"""Inception-v4 and Inception-ResNet (arXiv 1602.07261) as pure functions in JAX."""

from inception_jax.models.networks import Network, create, list_networks
from inception_jax.models.schema import NetworkSpec
from inception_jax.models.small import paper_width_spec, small_image_spec
from inception_jax.models.specs import SPECS

__version__ = "0.1.0"

__all__ = [
    "SPECS",
    "Network",
    "NetworkSpec",
    "create",
    "list_networks",
    "paper_width_spec",
    "small_image_spec",
]
