# SPDX-License-Identifier: Apache-2.0
"""Keras's files: .h5 of old, .weights.h5 and the .keras archive that holds one.

Layers have numbers there that depend on what the process had built before (.h5), or on
their order within a class (.weights.h5). Here they get the names of the first model in a
process, as in names/keras_*.json; names/keras_*_order.json are in the order of
`model.layers`.
"""

import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inception_jax.storage.digests import CheckpointError
from inception_jax.text import one_line
from inception_jax.weights.convert import match
from inception_jax.weights.layouts import LAYOUTS
from inception_jax.weights.write_keras import layer_order

if TYPE_CHECKING:
    import h5py

WEIGHTS = "model.weights.h5"  # in a .keras archive
# Arrays of a layer in a .weights.h5, by its class and how many there are.
VARIABLES = {
    ("conv2d", 1): ("kernel",),
    ("conv2d", 2): ("kernel", "bias"),
    ("dense", 2): ("kernel", "bias"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}

# What h5py and the code here raise where Keras's attributes are not what they should be.
MALFORMED = (ValueError, TypeError, AttributeError)

Arrays = dict[str, np.ndarray]
# A layer's name in the file, and its arrays by their own names.
Layer = tuple[str, Arrays]
# Layers of a .weights.h5 by class and number.
Classes = dict[tuple[str, int], Layer]


def read_layers(file: Path | BytesIO, path: Path) -> Arrays:
    """All arrays by name. `path` is what the file is called, where that is a stream.

    Raises CheckpointError where it is damaged, ImportError without the `weights` extra.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ImportError(
            f"{one_line(path)} is Keras's, and h5py is missing: "
            'pip install "inception_jax[weights]"'
        ) from None
    layouts = [layout for layout in LAYOUTS if layout.source == "keras"]
    orders = {layout.network: layer_order(layout.network) for layout in layouts}
    try:
        with h5py.File(file, "r") as opened:
            group = opened.get("model_weights", opened)  # so in a whole model's .h5
            if any(name.startswith("layer_names") for name in group.attrs):
                layers = list(_of_old(group))
                named = {x: _in_order(y, layers) for x, y in orders.items()}
            else:
                classes, others = _of_keras_3(opened)
                named = {x: _by_class(y, classes) | others for x, y in orders.items()}
    except (OSError, RuntimeError, LookupError, *MALFORMED) as error:
        raise CheckpointError(
            f"{one_line(path)} is damaged: {one_line(error).rstrip('.')}."
        ) from error
    best = min(layouts, key=lambda layout: match(layout, named[layout.network]).distance)
    return named[best.network]


def _of_old(group: "h5py.Group") -> Iterator[Layer]:
    """Layers with arrays of an .h5, in its order, by which Keras pairs them, too
    (legacy_h5_format.py, load_weights_from_hdf5_group)."""
    for name in _texts(group, "layer_names"):
        weights = _texts(group[name], "weight_names")
        if weights:  # such as conv2d_204/kernel:0
            kinds = (x.split("/")[-1].split(":")[0] for x in weights)
            arrays = (_array(group[name][x]) for x in weights)
            yield name, dict(zip(kinds, arrays, strict=True))


def _texts(group: "h5py.Group", name: str) -> list[str]:
    """Texts of an attribute, which Keras cuts in pieces where they are many."""
    pieces = [name] if name in group.attrs else []
    while (piece := f"{name}{len(pieces)}") in group.attrs:
        pieces.append(piece)
    found = [text for piece in pieces for text in group.attrs[piece]]
    return [x.decode("utf-8") if isinstance(x, bytes) else str(x) for x in found]


def _array(dataset: "h5py.Dataset") -> np.ndarray:
    """Raises OSError where the numbers are in another file, which is not to be opened."""
    if dataset.external or dataset.is_virtual:
        raise OSError(f"{dataset.name} is kept in another file")
    return np.asarray(dataset[()])


def _in_order(names: list[str], layers: list[Layer]) -> Arrays:
    arrays = {}
    for place, (known, layer) in enumerate(zip_longest(names, layers)):
        if layer:
            arrays |= _renamed(known, layer, f"layer {place + 1}")
    return arrays


def _renamed(known: str | None, layer: Layer, place: str) -> Arrays:
    """A layer's arrays under the name that is known for its place, if it is one of that
    name or of the same class: numbers do not count."""
    name, arrays = layer
    unnumbered = re.sub(r"_\d+$", "", name)
    if known is None or unnumbered != re.sub(r"_\d+$", "", known):
        known = f"{name} ({place})"
    return {f"{known}/{kind}": x for kind, x in arrays.items()}


def _of_keras_3(opened: "h5py.File") -> tuple[Classes, Arrays]:
    """Layers of a .weights.h5, and what else it holds."""
    import h5py

    found: dict[tuple[str, int], dict[int, h5py.Dataset]] = {}
    others = {}

    def visit(path: str, what: "h5py.Group | h5py.Dataset") -> None:
        if isinstance(what, h5py.Group):
            return
        if parts := re.fullmatch(r"layers/(\w+?)(?:_(\d+))?/vars/(\d+)", path):
            kind, number, index = parts.groups()
            found.setdefault((kind, int(number or 0)), {})[int(index)] = what
        elif not path.startswith("optimizer/"):  # a compiled model keeps it
            others[path] = _array(what)

    opened.visititems(visit)
    return {key: _layer(key, variables) for key, variables in found.items()}, others


def _layer(key: tuple[str, int], variables: "Mapping[int, h5py.Dataset]") -> Layer:
    kinds = VARIABLES.get((key[0], len(variables)))
    if kinds is None or set(variables) != set(range(len(kinds))):
        kinds = [f"vars/{index}" for index in sorted(variables)]
    arrays = [_array(variables[index]) for index in sorted(variables)]
    group = next(iter(variables.values())).parent
    name = group.attrs.get("name", "")  # Keras 3.0 did not write it
    return str(name), dict(zip(kinds, arrays, strict=True))


def _by_class(names: list[str], classes: Classes) -> Arrays:
    known: dict[str, list[str]] = {}
    for name in names:
        known.setdefault(_class_of(name), []).append(name)
    arrays = {}
    for (kind, number), (name, variables) in classes.items():
        of_class = known.get(kind, [])
        expected = of_class[number] if number < len(of_class) else None
        layer = name or expected or kind, variables
        arrays |= _renamed(expected, layer, f"layers/{kind}_{number}")
    return arrays


def _class_of(name: str) -> str:
    if name.startswith("batch_normalization") or name.endswith("_bn"):
        return "batch_normalization"
    return "dense" if name == "predictions" else "conv2d"
