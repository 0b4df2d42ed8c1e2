# SPDX-License-Identifier: Apache-2.0
"""Weights as Keras's applications load them: .h5 files of the kind that Keras 2 wrote."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from inception_jax.storage.atomic import new_file
from inception_jax.weights.array_file import card_text
from inception_jax.weights.layouts import NAMES_FOLDER
from inception_jax.weights.model_folder import CARD_FILE, Card

# In a layer, in the order in which Keras lists its variables.
VARIABLES = ("kernel", "bias", "beta", "moving_mean", "moving_variance")


def layer_order(network: str) -> list[str]:
    """Keras's layers that hold arrays, in the order of `model.layers`.

    That is by depth, where the names count in the order of creation. Source: the models of
    keras.applications, keras 3.15.1.
    """
    file = NAMES_FOLDER / f"keras_{network}_order.json"
    return json.loads(file.read_text(encoding="utf-8"))


def write(
    out: Path, layers: Iterable[str], arrays: Mapping[str, np.ndarray], card: Card
) -> None:
    """Write the file whole: arrays such as conv2d/kernel in float32, the card as text.

    Keras pairs layers with groups by their order, whatever their names; `layers` without
    arrays are left out.

    Raises ImportError without h5py, CheckpointError where it cannot be written.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ImportError('h5py is missing: pip install "inception_jax[weights]"') from None
    groups = {
        layer: [name for x in VARIABLES if (name := f"{layer}/{x}") in arrays]
        for layer in layers
    }
    groups = {layer: names for layer, names in groups.items() if names}
    with new_file(out) as draft, h5py.File(draft, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in groups]
        for layer, names in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group[name] = np.asarray(arrays[name], np.float32)
        file[CARD_FILE] = card_text(card)
