# SPDX-License-Identifier: Apache-2.0
"""A saved model of the tiny network, images for it, and its outputs one at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from inception_jax.config import PreprocessSpec
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin, Variables
from tests.models.tiny import random_variables

# One of ImageNet's names, and names that files and terminals handle badly.
CLASS_NAMES = ("n02099601", "plain", 'a, "b"', "two\nlines", "\x1b[31mred", "caf\xe9")
CARD = Card(
    network="tiny",
    preprocess=PreprocessSpec((8, 8, 1), crop_fraction=0.75, low=-0.5, high=2.0),
    class_names=CLASS_NAMES,
    origin=Origin("timm", "a.safetensors"),
    residual_scale=0.25,
)


def save_tiny(folder: Path, **changes: object) -> tuple[Model, Variables]:
    """Write a model folder of the network "tiny", which the fixtures add to `SPECS`."""
    model = Model(replace(CARD, **changes))
    variables = random_variables(model.network, jnp.zeros((1, 8, 8, 1)))
    save(folder, model.card, variables)
    return model, variables


def write_images(folder: Path, count: int) -> list[str]:
    """Write different grey images of several sizes, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        size = (10 + i, 12)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return [str(folder / f"{i:02}.png") for i in range(count)]


def one_by_one(
    model: Model, variables: Variables, paths: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return probabilities and endpoints of images, computed one at a time."""
    apply = jax.jit(model.apply)
    each = [apply(variables, model.prepare([path])) for path in paths]
    probabilities = [jax.nn.softmax(logits)[0] for logits, _ in each]
    endpoints = jax.tree.map(lambda *x: np.concatenate(x), *(e for _, e in each))
    return np.stack(probabilities), endpoints
