# SPDX-License-Identifier: Apache-2.0
"""A card, and variables with distinct values and positive variances."""

from typing import Any

import jax
import numpy as np

from inception_jax.config import PreprocessSpec
from inception_jax.weights.model_folder import Card, Origin

CARD = Card(
    network="tiny",
    preprocess=PreprocessSpec((8, 8, 1), crop_fraction=0.75, low=-0.5, high=2.0),
    class_names=("ten", "\x1beleven\udcff", "n01440764"),
    origin=Origin("timm", "a.safetensors", "00"),
    bn_scale=False,
    residual_scale=0.25,
)


def filled(shapes: Any) -> Any:
    """Return random arrays: He-initialised kernels, scales and variances near 1."""
    rng = np.random.default_rng(0)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        kind = path[-1].key
        if kind == "kernel":
            x = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif kind in ("scale", "var"):
            x = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            x = rng.normal(0, 0.1, leaf.shape)
        return np.asarray(x, np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
