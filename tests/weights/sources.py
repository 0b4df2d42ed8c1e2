# SPDX-License-Identifier: Apache-2.0
"""Layouts of a tiny network in other libraries, and helpers for files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from inception_jax.config import PreprocessSpec
from inception_jax.models.zoo import SPECS
from inception_jax.weights import (
    convert,
    import_file,
    keras_file,
    layouts,
    read_file,
)
from inception_jax.weights.layouts import KERAS, TENSORFLOW, TORCH, Layout
from tests.models.tiny import one_block

SPEC = PreprocessSpec((8, 8, 1), crop_fraction=0.75)
# In the order of creation; in `model.layers` the layers of the last block are reversed.
KERAS_LAYERS = {
    "Stem/Conv2d_1a_3x3": ("conv2d", "batch_normalization"),
    "Stem/Conv2d_2a_2x2": ("conv2d_1", "batch_normalization_1"),
    "block8_1/Branch_0/Conv2d_1x1": ("conv2d_2", "batch_normalization_2"),
    "block8_1/Conv2d_1x1": ("block8_1_conv", None),
    "Logits": ("predictions", None),
}
KERAS_ORDER = (
    *("conv2d", "batch_normalization", "conv2d_2", "batch_normalization_2"),
    *("conv2d_1", "batch_normalization_1", "block8_1_conv", "predictions"),
)
ROWS = (
    Layout("timm", "tiny", TORCH, SPEC),
    Layout("cadene", "tiny", TORCH, SPEC, background=True),
    Layout("slim", "tiny", TENSORFLOW, replace(SPEC, aspect="keep"), background=True),
    Layout("keras", "tiny", KERAS, SPEC, ("Logits",)),
)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Replace the table of layouts and its names by `ROWS`, and add the network `tiny`."""
    monkeypatch.setitem(SPECS, "tiny", one_block())
    monkeypatch.setitem(layouts.SLIM_SCOPES, "tiny", "Tiny")
    torch_layers = {
        ours: (f"layers.{i}", norm and f"layers.{i}.bn")
        for i, (ours, (_, norm)) in enumerate(KERAS_LAYERS.items())
    }
    files = {"timm": torch_layers, "keras": KERAS_LAYERS}
    for source, layers in files.items():
        (folder / f"{source}_tiny.json").write_text(json.dumps(layers))
    (folder / "keras_tiny_order.json").write_text(json.dumps(KERAS_ORDER))
    monkeypatch.setattr(layouts, "NAMES_FOLDER", folder)
    for module in (layouts, import_file, keras_file):
        monkeypatch.setattr(module, "LAYOUTS", ROWS)
    monkeypatch.setattr(layouts, "layer_names", layouts.layer_names.__wrapped__)


def layout_of(library: str) -> Layout:
    return layouts.find_layout(library, "tiny")


def with_background(layout: Layout, theirs: dict, background: float = 9.0) -> dict:
    """Return the arrays with a background class before the others."""
    names = layouts.array_names(layout)
    theirs = dict(theirs)
    for leaf in ("kernel", "bias"):
        name = names[f"params/Logits/{leaf}"]
        x = theirs[name]
        axis = 0 if layout.convention.output_first else x.ndim - 1
        more = np.full_like(np.take(x, [0], axis), background)
        theirs[name] = np.concatenate([more, x], axis)
    return theirs


def save(arrays: dict[str, np.ndarray], path: Path) -> Path:
    """Write a .safetensors file and return its path."""
    safetensors.numpy.save_file(arrays, path)
    return path


def in_library(library: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays under the library's names, without counts of batches."""
    library_arrays = convert.to_library(layout_of(library), arrays)
    return {name: x for name, x in library_arrays.items() if x.dtype == np.float32}


def assert_read(path: Path, expected: dict[str, np.ndarray]) -> None:
    """Assert that `read_file.read_arrays` returns exactly these arrays."""
    found = read_file.read_arrays(path)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, strict=True, err_msg=name)


def flip(path: Path, part: bytes) -> None:
    """Flip a bit in the first byte of `part`, which the file must contain once."""
    whole = path.read_bytes()
    assert whole.count(part) == 1
    at = whole.index(part)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
