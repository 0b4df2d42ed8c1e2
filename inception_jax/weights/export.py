# SPDX-License-Identifier: Apache-2.0
"""Models written for others: plain arrays, other libraries' files, StableHLO programs."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from inception_jax.config import AblationConfig
from inception_jax.models.inputs import block_scales
from inception_jax.storage.digests import by_name
from inception_jax.text import one_line
from inception_jax.weights import array_file, stablehlo, write_keras
from inception_jax.weights import model as pretrained
from inception_jax.weights.array_file import Arrays
from inception_jax.weights.convert import to_library
from inception_jax.weights.layouts import find_layout
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Variables

Format = Literal[
    *("folder", "safetensors", "npz", "stablehlo"),
    *("timm", "keras", "facenet_pytorch"),
]
# How a file's name has to end there; the others are folders.
SUFFIXES = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "timm": ".safetensors",
    "keras": ".h5",
    "facenet_pytorch": ".safetensors",
}


def check_output_path(form: Format, out: Path) -> None:
    """Raise ValueError where a file or folder of that format cannot be written there."""
    if out.exists() or out.is_symlink():
        raise ValueError(
            f"{one_line(out)} is there already; remove it or choose another --out."
        )
    suffix = SUFFIXES.get(form, "")
    # Keras reads .weights.h5 as another format.
    good = out.name.endswith(suffix) and not out.name.endswith(".weights.h5")
    if not (good and out.parent.is_dir()):
        kind = f"a file {suffix}" if suffix else "the name of a new folder"
        raise ValueError(
            f"--out takes {kind} in a folder that exists, got {one_line(out)}."
        )


def export(model: Model, variables: Variables, form: Format, out: Path) -> list[str]:
    """Write the model; gives what is not as it was, in sentences.

    Raises what `check_output_path` raises, ValueError where the network has no such layout,
    ImportError without what the format needs, CheckpointError where it cannot be written.
    """
    check_output_path(form, out)
    arrays = by_name(jax.tree.map(np.asarray, variables))
    if form == "folder":
        pretrained.save(out, model.card, variables)
    elif form == "npz":
        array_file.write_npz(out, model.card, arrays)
    elif form == "safetensors":
        array_file.write_safetensors(out, model.card, arrays)
    elif form == "stablehlo":
        # In evaluation there is no aux head.
        used = {name: x for name, x in arrays.items() if "/AuxLogits/" not in name}
        stablehlo.write(out, model, used)
    else:
        return _write_theirs(model, arrays, form, out)
    return []


def _write_theirs(model: Model, arrays: Arrays, form: Format, out: Path) -> list[str]:
    card = model.card
    layout = find_layout(form.replace("_", "-"), card.network)
    # How weights began changes nothing.
    if replace(card.ablation, kernel_init=None, residual_init=None) != AblationConfig():
        raise ValueError(
            f"{layout} has no ablations and this model has one; export it as safetensors, "
            "npz or stablehlo."
        )
    theirs = to_library(layout, fold_residual_scale(model, arrays))
    if form == "keras":
        write_keras.write(out, write_keras.layer_order(card.network), theirs, card)
    else:
        array_file.write_safetensors(out, card, theirs)
    notes = []
    if card.aux_head:
        notes.append(f"The aux head was left out: {layout} has none.")
    if card.residual_scale is not None:
        notes.append(
            f"The residual scale {card.residual_scale:g} went into the linear "
            f"convolutions: {layout} computes with the published ones."
        )
    if card.bn_scale and layout.convention.gamma is None:
        notes.append(f"Batch norm's gamma went into the convolutions: {layout} has none.")
    if (form, card.network) == ("timm", "inception_v3"):  # see tests/models/test_goldens.py
        notes.append(
            "timm's inception_v3 counts the zeros of the padding in its average pools: "
            "its logits are some tenths away from these."
        )
    return notes


def fold_residual_scale(model: Model, arrays: Arrays) -> Arrays:
    """Arrays of the same function without a residual scale of the model's own.

    By as much as a block's scale is more than the published one, its linear convolution is.
    """
    if model.card.residual_scale is None:
        return arrays
    spec = model.network.spec
    scales = np.asarray(block_scales(spec, model.card.residual_scale))
    factors = scales / np.asarray(spec.default_scales, np.float32)
    blocks = [x for stage in spec.stages if stage.scale is not None for x in stage.names]
    scaled = dict(arrays)
    for block, factor in zip(blocks, factors, strict=True):
        for leaf in ("kernel", "bias"):
            name = f"params/{block}/Conv2d_1x1/{leaf}"
            scaled[name] = scaled[name] * factor
    return scaled
