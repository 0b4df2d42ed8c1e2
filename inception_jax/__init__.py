# SPDX-License-Identifier: Apache-2.0
"""Inception-v4 and Inception-ResNet (arXiv 1602.07261) as pure functions in JAX."""

from inception_jax.models.network import Network, create
from inception_jax.models.small_images import paper_width_spec, small_image_spec
from inception_jax.models.spec import NetworkSpec
from inception_jax.models.zoo import SPECS, list_networks
from inception_jax.runtime.devices import compiler_options
from inception_jax.weights.folding import fold
from inception_jax.weights.model import Model, load, save

__version__ = "0.1.0"

__all__ = [
    "SPECS",
    "Model",
    "Network",
    "NetworkSpec",
    "compiler_options",
    "create",
    "fold",
    "list_networks",
    "load",
    "paper_width_spec",
    "save",
    "small_image_spec",
]
