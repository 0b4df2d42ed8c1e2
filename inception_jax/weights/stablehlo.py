# SPDX-License-Identifier: Apache-2.0
"""Networks with their weights as StableHLO programs, which run without this package.

model.stablehlo  what `jax.export.deserialize` reads: images in, logits out
about.json       input and output, classes, preprocessing, versions
"""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from inception_jax.crops import in_words
from inception_jax.data.imagenet_names import class_title
from inception_jax.model_folder import Variables
from inception_jax.pretrained import Model
from inception_jax.weights.plain import whole

PROGRAM, ABOUT = "model.stablehlo", "about.json"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(folder: Path, model: Model, variables: Variables) -> None:
    """Write the folder, whole or not at all.

    The weights are constants of the program: one argument, and no file to bring along.

    Raises ImportError without flatbuffers, CheckpointError where it cannot be written.
    """
    try:
        import flatbuffers  # noqa: F401  what jax.export serialises with
    except ModuleNotFoundError:
        raise ImportError(
            'flatbuffers is missing: pip install "inception_jax[weights]"'
        ) from None
    exported = program(model, variables)
    data = exported.serialize()
    about = describe(model, exported)
    about["sha256"] = hashlib.sha256(data).hexdigest()
    with whole(folder) as draft:
        draft.mkdir()
        (draft / PROGRAM).write_bytes(data)
        (draft / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def program(model: Model, variables: Variables) -> export.Exported:
    """Images [b, height, width, channels] in the network's range to its output [b, k].

    For any batch size, on the three platforms, in float32, as in evaluation.
    """
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *model.card.preprocess.image_shape), jnp.float32)

    def run(images: jax.Array) -> jax.Array:
        # Without it XLA computes with the constants beforehand, for long and with other
        # roundings than in `model.apply`.
        weights = jax.lax.optimization_barrier(variables)
        return model.apply(weights, images)[0]

    return export.export(jax.jit(run), platforms=PLATFORMS)(images)


def describe(model: Model, exported: export.Exported) -> dict[str, Any]:
    """What has to be known to call the program, for people and programs."""
    card = model.card
    spec = card.preprocess
    (images,), (output,) = exported.in_avals, exported.out_avals
    classes = len(card.class_names)
    return {
        "input": {
            "shape": [str(axis) for axis in images.shape],
            "dtype": str(images.dtype),
            "axes": "batch, height, width, channels",
            "range": [spec.low, spec.high],
            "preprocessing": in_words(spec),
        },
        "output": {
            "shape": [str(axis) for axis in output.shape],
            "dtype": str(output.dtype),
            "meaning": "logits, one for each of class_names" if classes else "features",
        },
        "class_names": card.class_names,
        "class_titles": [class_title(name) for name in card.class_names],
        "card": asdict(card),
        "platforms": exported.platforms,
        "calling_convention_version": exported.calling_convention_version,
        "versions": {name: version(name) for name in ("inception_jax", "jax", "jaxlib")},
    }
