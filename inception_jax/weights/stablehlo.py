# SPDX-License-Identifier: Apache-2.0
"""Export of networks as StableHLO programs, which run without this package.

model.stablehlo      the program for `jax.export.deserialize`: weights and images to logits
weights.safetensors  its first argument: a dict of arrays by name
about.json           input, output, classes, preprocessing and versions
"""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from jax import export

from inception_jax.data.crops import describe_preprocessing
from inception_jax.data.imagenet import class_title
from inception_jax.data.optional import require
from inception_jax.storage.files import atomic_output
from inception_jax.weights.array_file import Arrays, float32
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import WEIGHTS_FILE

PROGRAM_FILE, ABOUT_FILE = "model.stablehlo", "about.json"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(folder: Path, model: Model, arrays: Arrays) -> None:
    """Write the folder, with the arrays of the model by name.

    The weights are an argument, not constants of the program: for constants, XLA may choose
    other kernels, and the logits would equal those of `model.apply` only up to rounding.

    Raises ImportError without flatbuffers, or CheckpointError if writing fails.
    """
    require("flatbuffers", "weights")  # jax.export serialises with it
    arrays = float32(arrays)
    exported = export_program(model, arrays)
    about = json.dumps(describe(model, exported), indent=1)
    with atomic_output(folder) as draft:
        draft.mkdir()
        (draft / PROGRAM_FILE).write_bytes(exported.serialize())
        safetensors.numpy.save_file(arrays, draft / WEIGHTS_FILE)
        (draft / ABOUT_FILE).write_text(f"{about}\n", encoding="utf-8")


def export_program(model: Model, arrays: Arrays) -> export.Exported:
    """Export the network in evaluation mode, in float32, for any batch size and PLATFORMS.

    The program maps weights by name and images [b, height, width, channels], in the
    network's range, to the output [b, k].
    """
    (batch,) = export.symbolic_shape("b")
    shape = (batch, *model.card.preprocess.image_shape)
    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}

    def run(weights: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        return model.apply(unflatten_dict(weights, sep="/"), images)[0]

    exporting = export.export(jax.jit(run), platforms=PLATFORMS)
    return exporting(weights, jax.ShapeDtypeStruct(shape, jnp.float32))


def describe(model: Model, exported: export.Exported) -> dict[str, Any]:
    """Return a description with everything needed to call the program."""
    card = model.card
    spec, classes = card.preprocess, card.class_names
    images, (output,) = exported.in_avals[-1], exported.out_avals
    return {
        "call": f"jax.export.deserialize({PROGRAM_FILE}).call(weights, images)",
        "weights": f"dict of the arrays in {WEIGHTS_FILE}, by their names there",
        "images": {
            "shape": [str(axis) for axis in images.shape],
            "dtype": str(images.dtype),
            "axes": "batch, height, width, channels",
            "range": [spec.low, spec.high],
            "preprocessing": describe_preprocessing(spec),
        },
        "output": {
            "shape": [str(axis) for axis in output.shape],
            "dtype": str(output.dtype),
            "meaning": "logits, one for each of class_names" if classes else "features",
        },
        "class_names": classes,
        "class_titles": [class_title(name) for name in classes],
        "card": asdict(card),
        "platforms": exported.platforms,
        "calling_convention_version": exported.calling_convention_version,
        "versions": {name: version(name) for name in ("inception_jax", "jax", "jaxlib")},
    }
