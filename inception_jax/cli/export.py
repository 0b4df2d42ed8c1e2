# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax weights export`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from inception_jax.data.crops import describe_preprocessing
from inception_jax.storage.digests import by_name
from inception_jax.text import one_line
from inception_jax.weights.export import Format, check_output_path, export
from inception_jax.weights.model import load
from inception_jax.weights.model_folder import WEIGHTS_FILE, Card
from inception_jax.weights.stablehlo import PROGRAM_FILE


def export_model(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    /,
    format: Format,
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    weights: Literal["raw", "ema"] = "ema",
    step: int | None = None,
) -> None:
    """Write a network with its weights for another program to load.

    folder is a model folder of this package; safetensors and npz hold the arrays under our
    names; timm, keras and facenet_pytorch are those libraries' own files; stablehlo is a
    program for jax.export, its weights and a description. Preprocessing and class names go
    along.

    Args:
        model: model folder, folder of a run, or name.
        format: what to write.
        out: file or folder to write, whole or not at all; must not be there yet.
        weights: of a run: as trained, or their running averages.
        step: of a run's checkpoint; default: the newest good one.
    """
    check_output_path(format, out)
    loaded, variables = load(model, weights=weights, step=step)
    if sys.stderr.isatty():
        print(f"writing {one_line(out)} ...", file=sys.stderr, flush=True)
    notes = export(loaded, variables, format, out)
    numbers = sum(x.size for x in by_name(variables).values())
    size = sum(p.stat().st_size for p in (out, *out.rglob("*")) if p.is_file())
    print(
        f"Wrote {loaded.card.network}, {numbers:,} numbers, to {one_line(out)}: "
        f"{size:,} bytes."
    )
    for note in notes:
        print(note)
    print(f"Images: {describe_preprocessing(loaded.card.preprocess)}.\n\nTo load it:")
    for line in how_to_load(format, out, loaded.card):
        print(f"    {line}")


def how_to_load(format: Format, out: Path, card: Card) -> tuple[str, ...]:
    """Lines of the Python of whoever reads the format."""
    file, classes = json.dumps(str(out)), len(card.class_names)
    program, weights = (
        json.dumps(str(out / name)) for name in (PROGRAM_FILE, WEIGHTS_FILE)
    )
    keras = "InceptionV3" if card.network == "inception_v3" else "InceptionResNetV2"
    top = f"classes={classes}, classifier_activation=None"
    facenet = f"classify=True, num_classes={classes}"
    if not classes:
        top, facenet = 'include_top=False, pooling="avg"', ""
    return {
        "folder": (
            "import inception_jax",
            f"model, variables = inception_jax.load({file})",
        ),
        "safetensors": (
            "import safetensors.numpy",
            f"arrays = safetensors.numpy.load_file({file})",
        ),
        "npz": ("import numpy", f"arrays = numpy.load({file})"),
        "stablehlo": (
            "import jax.export, pathlib, safetensors.numpy",
            f"program = bytearray(pathlib.Path({program}).read_bytes())",
            f"weights = safetensors.numpy.load_file({weights})",
            "logits = jax.export.deserialize(program).call(weights, images)",
        ),
        "timm": (
            "import timm",
            f"model = timm.create_model({json.dumps(card.network)}, num_classes={classes}, "
            f"checkpoint_path={file}).eval()",
        ),
        "keras": (
            "import keras",
            f"model = keras.applications.{keras}(weights={file}, {top})",
        ),
        "facenet_pytorch": (
            "import facenet_pytorch, safetensors.torch",
            f"model = facenet_pytorch.InceptionResnetV1({facenet}).eval()",
            f"model.load_state_dict(safetensors.torch.load_file({file}))",
        ),
    }[format]
