# SPDX-License-Identifier: Apache-2.0
"""Keras files: reader for .h5, .weights.h5 and .keras archives, writer for .h5.

The numbers in layer names depend on the models that the process had built before (.h5), or
count the layers of a class (.weights.h5). The reader and names/keras_*.json name layers as
in the first model of a process; names/keras_*_order.json has them in the order of
`model.layers`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inception_jax.data.optional import require
from inception_jax.storage.files import as_damaged, atomic_output
from inception_jax.text import one_line
from inception_jax.weights.convert import match_names
from inception_jax.weights.layouts import LAYOUTS, keras_layer_order
from inception_jax.weights.model_folder import CARD_FILE, Card

if TYPE_CHECKING:
    import h5py

WEIGHTS = "model.weights.h5"  # in a .keras archive
# Names of a layer's arrays in a .weights.h5, by the layer's class and their number.
VARIABLES = {
    ("conv2d", 1): ("kernel",),
    ("conv2d", 2): ("kernel", "bias"),
    ("dense", 2): ("kernel", "bias"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}
# Names of a layer's arrays in an .h5, in the order in which Keras lists them.
WRITTEN_ORDER = ("kernel", "bias", "beta", "moving_mean", "moving_variance")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a file: its name in the file, or "", and its arrays by kind."""

    name: str
    arrays: Arrays  # such as kernel


# Layers of a .weights.h5 by class and number.
Classes = dict[tuple[str, int], StoredLayer]


def read_layers(file: Path | BytesIO, path: Path) -> Arrays:
    """Read all arrays of an HDF5 file, or of a stream from the file `path`.

    Raises CheckpointError if it is damaged, or ImportError without the `weights` extra.
    """
    h5py = require("h5py", "weights", f"{one_line(path)} is a Keras file, and ")
    orders = {x: keras_layer_order(x.network) for x in LAYOUTS if x.library == "keras"}
    errors = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
    with as_damaged(path, *errors), h5py.File(file, "r") as opened:
        group = opened.get("model_weights", opened)  # the .h5 of a whole model has it
        if any(name.startswith("layer_names") for name in group.attrs):
            layers = list(_legacy_layers(group))
            named = {x: _name_by_order(order, layers) for x, order in orders.items()}
        else:
            classes, rest = _keras_3_layers(opened)
            named = {
                x: _name_by_class(order, classes) | rest for x, order in orders.items()
            }
    return named[min(named, key=lambda x: match_names(x, named[x]).distance)]


def _legacy_layers(group: "h5py.Group") -> Iterator[StoredLayer]:
    """Yield the layers of an .h5 that have arrays, in the order of the file."""
    for name in _texts(group, "layer_names"):
        weights = _texts(group[name], "weight_names")  # such as conv2d_204/kernel:0
        arrays = {x.split("/")[-1].split(":")[0]: _array(group[name][x]) for x in weights}
        if arrays:
            yield StoredLayer(name, arrays)


def _texts(group: "h5py.Group", name: str) -> list[str]:
    """Return the strings of an attribute, which Keras splits if there are many."""
    pieces = [name] if name in group.attrs else []
    while (piece := f"{name}{len(pieces)}") in group.attrs:
        pieces.append(piece)
    texts = [text for piece in pieces for text in group.attrs[piece]]
    return [x.decode("utf-8") if isinstance(x, bytes) else str(x) for x in texts]


def _array(dataset: "h5py.Dataset") -> np.ndarray:
    """Read a dataset. Raises OSError if it refers to another file, which is not read."""
    if dataset.external or dataset.is_virtual:
        raise OSError(f"{dataset.name} is stored in another file")
    return np.asarray(dataset[()])


def _name_by_order(order: list[str], layers: list[StoredLayer]) -> Arrays:
    """Pair layers by position, as Keras does (load_weights_from_hdf5_group)."""
    arrays: Arrays = {}
    for index, layer in enumerate(layers):
        expected = order[index] if index < len(order) else None
        arrays |= _renamed(layer, expected, f"layer {index + 1}")
    return arrays


def _renamed(layer: StoredLayer, expected: str | None, place: str) -> Arrays:
    """Return the arrays under the expected name if names differ only in the number."""
    unnumbered = re.sub(r"_\d+$", "", layer.name)
    if expected is None or unnumbered != re.sub(r"_\d+$", "", expected):
        expected = f"{layer.name} ({place})"
    return {f"{expected}/{kind}": x for kind, x in layer.arrays.items()}


def _keras_3_layers(file: "h5py.File") -> tuple[Classes, Arrays]:
    """Return the layers of a .weights.h5, and all other arrays by path."""
    import h5py

    datasets: dict[str, h5py.Dataset] = {}

    def visit(path: str, item: "h5py.Group | h5py.Dataset") -> None:
        if not isinstance(item, h5py.Group):
            datasets[path] = item

    file.visititems(visit)
    layers: dict[tuple[str, int], dict[int, h5py.Dataset]] = {}
    rest: Arrays = {}
    for path, dataset in datasets.items():
        if parts := re.fullmatch(r"layers/(\w+?)(?:_(\d+))?/vars/(\d+)", path):
            class_name, number, index = parts.groups()
            layers.setdefault((class_name, int(number or 0)), {})[int(index)] = dataset
        elif not path.startswith("optimizer/"):  # a compiled model stores its optimizer
            rest[path] = _array(dataset)
    return {key: _stored_layer(key[0], layer) for key, layer in layers.items()}, rest


def _stored_layer(class_name: str, datasets: "dict[int, h5py.Dataset]") -> StoredLayer:
    indices = sorted(datasets)
    kinds = VARIABLES.get((class_name, len(indices)))
    if kinds is None or indices != list(range(len(kinds))):
        kinds = tuple(f"vars/{index}" for index in indices)
    arrays = {kind: _array(datasets[i]) for kind, i in zip(kinds, indices, strict=True)}
    # Keras 3.0 stored no name.
    return StoredLayer(str(datasets[indices[0]].parent.attrs.get("name", "")), arrays)


def _name_by_class(order: list[str], classes: Classes) -> Arrays:
    """Pair layers by their number within a class, as Keras 3 does."""
    by_class: dict[str, list[str]] = {}
    for name in order:
        by_class.setdefault(_class_of(name), []).append(name)
    arrays: Arrays = {}
    for (class_name, number), layer in classes.items():
        names = by_class.get(class_name, [])
        expected = names[number] if number < len(names) else None
        if not layer.name:
            layer = replace(layer, name=expected or class_name)
        arrays |= _renamed(layer, expected, f"layers/{class_name}_{number}")
    return arrays


def _class_of(name: str) -> str:
    if name.startswith("batch_normalization") or name.endswith("_bn"):
        return "batch_normalization"
    return "dense" if name == "predictions" else "conv2d"


def write(
    out: Path, layers: Iterable[str], arrays: Mapping[str, np.ndarray], card: Card
) -> None:
    """Write arrays such as conv2d/kernel, in float32, and the card to a Keras 2 .h5 file.

    Keras pairs layers by their order in the file, not by name; layers without arrays are
    left out. Raises ImportError without h5py, CheckpointError if writing fails.
    """
    h5py = require("h5py", "weights")
    with atomic_output(out) as draft, h5py.File(draft, "w") as file:
        written = []
        for layer in layers:
            names = [name for x in WRITTEN_ORDER if (name := f"{layer}/{x}") in arrays]
            if not names:
                continue
            written.append(layer.encode())
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group[name] = np.asarray(arrays[name], np.float32)
        file.attrs["layer_names"] = written
        file[CARD_FILE] = card.to_json()
