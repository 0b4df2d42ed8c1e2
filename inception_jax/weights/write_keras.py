# SPDX-License-Identifier: Apache-2.0
"""Writer for Keras weights: the .h5 format of Keras 2, which keras.applications loads."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from inception_jax.data.optional import require
from inception_jax.storage.atomic import atomic_output
from inception_jax.weights.array_file import card_text
from inception_jax.weights.model_folder import CARD_FILE, Card

# Names of a layer's arrays, in the order in which Keras lists them.
VARIABLES = ("kernel", "bias", "beta", "moving_mean", "moving_variance")


def write(
    out: Path, layers: Iterable[str], arrays: Mapping[str, np.ndarray], card: Card
) -> None:
    """Write arrays such as conv2d/kernel, in float32, and the card as text.

    Keras pairs layers by their order in the file, not by name; layers without arrays are
    left out. Raises ImportError without h5py, CheckpointError if writing fails.
    """
    h5py = require("h5py", "weights")
    with atomic_output(out) as draft, h5py.File(draft, "w") as file:
        written = []
        for layer in layers:
            names = [name for x in VARIABLES if (name := f"{layer}/{x}") in arrays]
            if not names:
                continue
            written.append(layer.encode())
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group[name] = np.asarray(arrays[name], np.float32)
        file.attrs["layer_names"] = written
        file[CARD_FILE] = card_text(card)
