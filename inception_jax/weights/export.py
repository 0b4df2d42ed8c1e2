# SPDX-License-Identifier: Apache-2.0
"""Export of models to plain arrays, files of other libraries or StableHLO programs."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from inception_jax.config import AblationConfig
from inception_jax.models.inputs import block_scales
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import check_new
from inception_jax.text import one_line
from inception_jax.weights import array_file, keras_file, stablehlo
from inception_jax.weights.array_file import Arrays
from inception_jax.weights.convert import to_library
from inception_jax.weights.layouts import Layout, find_layout, keras_layer_order
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Variables

Format = Literal[
    "folder", "safetensors", "npz", "stablehlo", "timm", "keras", "facenet_pytorch"
]
# The suffix of each format that is a file; the others are folders.
SUFFIXES = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "timm": ".safetensors",
    "keras": ".h5",
    "facenet_pytorch": ".safetensors",
}


def check_output_path(format: Format, out: Path) -> None:
    """Raise ValueError unless `out` can be created and has the suffix of the format."""
    check_new(out)
    suffix = SUFFIXES.get(format, "")
    # Keras reads .weights.h5 as another format.
    right_name = out.name.endswith(suffix) and not out.name.endswith(".weights.h5")
    if not (right_name and out.parent.is_dir()):
        kind = f"a {suffix} file" if suffix else "a new folder"
        kind += " (not .weights.h5)" if suffix == ".h5" else ""
        raise ValueError(f"--out needs {kind} in an existing folder, got {one_line(out)}.")


def export(model: Model, variables: Variables, format: Format, out: Path) -> list[str]:
    """Write a model in a format; return sentences that describe the changes made.

    Raises ValueError if `check_output_path` does or the format does not support the
    network, ImportError if a package is missing, or CheckpointError if writing fails.
    """
    check_output_path(format, out)
    arrays = flatten_with_paths(jax.tree.map(np.asarray, variables))
    if format == "folder":
        save(out, model.card, variables)
    elif format == "npz":
        array_file.write_npz(out, model.card, arrays)
    elif format == "safetensors":
        array_file.write_safetensors(out, model.card, arrays)
    elif format == "stablehlo":
        # Evaluation does not use the auxiliary head.
        used = {name: x for name, x in arrays.items() if "/AuxLogits/" not in name}
        stablehlo.write(out, model, used)
    else:
        return _export_to_library(model, arrays, format, out)
    return []


def _export_to_library(
    model: Model, arrays: Arrays, format: Format, out: Path
) -> list[str]:
    card = model.card
    layout = find_layout(format.replace("_", "-"), card.network)
    # The initialisers do not matter once the network is trained.
    if replace(card.ablation, kernel_init=None, residual_init=None) != AblationConfig():
        raise ValueError(
            f"{layout} does not support this model's ablation options; export it as "
            "safetensors, npz or stablehlo."
        )
    library_arrays = to_library(layout, fold_residual_scale(model, arrays))
    if format == "keras":
        layers = keras_layer_order(card.network)
        keras_file.write(out, layers, library_arrays, card)
    else:
        array_file.write_safetensors(out, card, library_arrays)
    return _changes(card, layout)


def _changes(card: Card, layout: Layout) -> list[str]:
    """Describe what a library's network does not support or computes differently."""
    changes = []
    if card.aux_head:
        changes.append(f"The auxiliary head was omitted: {layout} has none.")
    if card.residual_scale is not None:
        changes.append(
            f"The residual scale {card.residual_scale:g} was folded into the linear "
            f"convolutions: {layout} has the published scales."
        )
    if card.bn_scale and layout.convention.gamma is None:
        changes.append(f"Batch norm's gamma was folded into kernels: {layout} has none.")
    if (layout.library, card.network) == ("timm", "inception_v3"):
        # See tests/models/test_goldens.py.
        changes.append(
            "Logits in timm will differ by a few tenths, because average pools in its "
            "inception_v3 count the zeros of the padding."
        )
    return changes


def fold_residual_scale(model: Model, arrays: Arrays) -> Arrays:
    """Return arrays that compute the same function with the published residual scales.

    Each linear convolution is multiplied by its block's scale divided by the published one.
    """
    if model.card.residual_scale is None:
        return arrays
    spec = model.network.spec
    scales = np.asarray(block_scales(spec, model.card.residual_scale))
    factors = scales / np.asarray(spec.default_scales, np.float32)
    blocks = [name for s in spec.stages if s.scale is not None for name in s.names]
    folded = dict(arrays)
    for block, factor in zip(blocks, factors, strict=True):
        for leaf in ("kernel", "bias"):
            name = f"params/{block}/Conv2d_1x1/{leaf}"
            folded[name] = folded[name] * factor
    return folded
