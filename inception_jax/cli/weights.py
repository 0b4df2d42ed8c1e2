# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax weights import` and `export`."""

import json
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from inception_jax.cli.arguments import MODEL_HELP, Step, Weights, option
from inception_jax.data.crops import describe_preprocessing
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import check_new
from inception_jax.text import one_line
from inception_jax.weights.export import Format, check_output_path, export
from inception_jax.weights.import_file import Imported, import_file
from inception_jax.weights.layouts import FACENET
from inception_jax.weights.model import load, models_folder, save
from inception_jax.weights.model_folder import WEIGHTS_FILE, Card
from inception_jax.weights.stablehlo import PROGRAM_FILE


def import_weights(
    file: Annotated[Path, Positional, arg(metavar="FILE")],
    /,
    out: Annotated[
        Path | None, option("DIR", "NETWORK.LIBRARY in the folder of named models")
    ] = None,
    classes: Annotated[Path | None, option("FILE", "ImageNet's, or numbers")] = None,
    sha256: Annotated[str | None, option("HEX", "not checked")] = None,
) -> None:
    """Convert a weight file of another library to a model folder.

    Example: inception-jax weights import model.safetensors --out models/v4

    Supported files are .safetensors, .pth and .pt of timm, Cadene and facenet-pytorch, .h5
    and .keras of Keras, checkpoints of TF-slim and facenet, and .safetensors and .npz of
    `weights export`. The library and network are recognised from the array names, which
    must match exactly. Nothing is downloaded; inception_jax/weights/README.md lists where
    to find weight files.

    Args:
        file: File to read. For a TensorFlow checkpoint, its prefix or any of its files.
        out: New model folder to write.
        classes: Text file with one class name per line.
        sha256: Expected SHA-256 of the file, as published with it. A file with another
            checksum is rejected.
    """
    if out is not None:
        check_new(out)
    names = None if classes is None else _read_lines(classes)
    if sys.stderr.isatty():
        print(f"Reading {one_line(file)} ...", file=sys.stderr, flush=True)
    imported = import_file(file, names, sha256)
    card = imported.card
    if out is None:
        out = models_folder() / f"{card.network}.{card.origin.source}"
    save(out, card, imported.variables)
    print(_summary(imported, file, out))
    print(f"\n{_next_command(card, out)}")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(
            f"{one_line(path)} is not UTF-8 text; expected one class name per line."
        ) from None


def _summary(imported: Imported, file: Path, out: Path) -> str:
    card, arrays = imported.card, flatten_with_paths(imported.variables)
    params = sum(x.size for name, x in arrays.items() if name.startswith("params/"))
    statistics = sum(x.size for x in arrays.values()) - params
    network = card.network
    if not card.bn_scale:
        network += ", batch norm without gamma"
    if card.aux_head:
        network += ", with auxiliary head"
    used = f"{len(arrays):,}, each used once"
    if unused := len(imported.left_out):
        used += f"; {unused:,} more in the file not used by the network"
    classes = "none: the output is features"
    if card.class_names:
        first, last = one_line(card.class_names[0]), one_line(card.class_names[-1])
        classes = f"{len(card.class_names):,}: {first} ... {last}"
    if card.origin.background_removed:
        classes += ", without the background class"
    rows = {
        "file": f"{one_line(file)}, SHA-256 {card.origin.sha256}",
        "source": card.origin.source,
        "network": network,
        "arrays": used,
        "numbers": f"{params:,} parameters, {statistics:,} moving averages",
        "classes": classes,
        "images": describe_preprocessing(card.preprocess),
        "written": one_line(out),
    }
    return "\n".join(f"{label:10} {text}" for label, text in rows.items())


def _next_command(card: Card, out: Path) -> str:
    """Return a command that applies the model in `out` to an image."""
    model = one_line(out.name if out.parent == models_folder() else out)
    if card.class_names:
        return f"inception-jax predict IMAGE --model {model}"
    endpoint = "Embeddings" if card.network == FACENET else "PreLogitsFlatten"
    return (
        f"inception-jax features IMAGE --model {model} --endpoint {endpoint} "
        "--out features.npz"
    )


def export_weights(
    model: Annotated[str, Positional, arg(metavar="MODEL", help=MODEL_HELP)],
    /,
    format: Format,
    out: Annotated[Path, arg(metavar="PATH")],
    weights: Weights = "ema",
    step: Step = None,
) -> None:
    """Write a network and its weights in a format that another program loads.

    Example: inception-jax weights export models/v4 --format stablehlo --out v4_program

    Formats: folder is a model folder of this package. safetensors and npz contain arrays
    under this package's names. timm, keras and facenet_pytorch are files for those
    libraries. stablehlo is a folder with a program for jax.export and its weights.
    Preprocessing and class names are included. The command prints Python code that loads
    the result.

    Args:
        format: Format to write.
        out: New file or folder to write.
    """
    check_output_path(format, out)
    loaded, variables = load(model, weights=weights, step=step)
    if sys.stderr.isatty():
        print(f"Writing {one_line(out)} ...", file=sys.stderr, flush=True)
    notes = export(loaded, variables, format, out)
    numbers = sum(x.size for x in flatten_with_paths(variables).values())
    size = sum(p.stat().st_size for p in (out, *out.rglob("*")) if p.is_file())
    print(
        f"Wrote {loaded.card.network}, {numbers:,} numbers, to {one_line(out)}: "
        f"{size:,} bytes."
    )
    for note in notes:
        print(note)
    print(f"Images: {describe_preprocessing(loaded.card.preprocess)}.\n\nTo load it:")
    for line in loading_code(format, out, loaded.card):
        print(f"    {line}")


def loading_code(format: Format, out: Path, card: Card) -> list[str]:
    """Return lines of Python code that load an exported file with its library."""
    file, network, classes = _quoted(out), _quoted(card.network), len(card.class_names)
    if format == "folder":
        return ["import inception_jax", f"model, variables = inception_jax.load({file})"]
    if format == "safetensors":
        load_file = f"arrays = safetensors.numpy.load_file({file})"
        return ["import safetensors.numpy", load_file]
    if format == "npz":
        return ["import numpy", f"arrays = numpy.load({file})"]
    if format == "stablehlo":
        program, weights = _quoted(out / PROGRAM_FILE), _quoted(out / WEIGHTS_FILE)
        return [
            "import jax.export, pathlib, safetensors.numpy",
            f"program = bytearray(pathlib.Path({program}).read_bytes())",
            f"weights = safetensors.numpy.load_file({weights})",
            "logits = jax.export.deserialize(program).call(weights, images)",
        ]
    if format == "timm":
        options = f"num_classes={classes}, checkpoint_path={file}"
        create = f"model = timm.create_model({network}, {options})"
        return ["import timm", create, "model.eval()"]
    if format == "keras":
        name = "InceptionV3" if card.network == "inception_v3" else "InceptionResNetV2"
        head = f"classes={classes}, classifier_activation=None"
        if not classes:
            head = 'include_top=False, pooling="avg"'
        create = f"model = keras.applications.{name}(weights={file}, {head})"
        return ["import keras", create]
    head = f"classify=True, num_classes={classes}" if classes else ""
    return [
        "import facenet_pytorch, safetensors.torch",
        f"model = facenet_pytorch.InceptionResnetV1({head}).eval()",
        f"model.load_state_dict(safetensors.torch.load_file({file}))",
    ]


def _quoted(text: object) -> str:
    return json.dumps(str(text))
