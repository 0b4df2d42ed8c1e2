# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax weights import` and `export`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli.export import export_model
from inception_jax.data.crops import describe_preprocessing
from inception_jax.storage.digests import by_name
from inception_jax.text import one_line
from inception_jax.weights.import_file import Imported, import_file
from inception_jax.weights.layouts import FACENET
from inception_jax.weights.model import models_folder, save


def import_weights(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    classes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    sha256: Annotated[str | None, tyro.conf.arg(metavar="HEX")] = None,
) -> None:
    """Make a model folder of the weights that another library wrote.

    Reads timm's, Cadene's and facenet-pytorch's .safetensors and .pth, Keras's .h5,
    .weights.h5 and .keras, and the checkpoints of TF-slim and facenet; the names in the
    file say which it is. Every array has to fit exactly, else nothing is written. Nothing
    is downloaded: inception_jax/weights/README.md says where such files are.

    Args:
        file: to read; of a TensorFlow checkpoint its prefix.
        out: folder to write, whole or not at all; must not be there yet; default:
            NETWORK.SOURCE in $INCEPTION_JAX_MODELS.
        classes: text file with a name for each class in a line of its own; needed for
            other classes than ImageNet's.
        sha256: of the file, as where it is from states it; another one is refused.
    """
    if out is not None:
        _check_new(out)
    names = None if classes is None else _lines(classes)
    if sys.stderr.isatty():
        print(f"reading {one_line(file)} ...", file=sys.stderr, flush=True)
    imported = import_file(file, names, sha256)
    card = imported.card
    if out is None:
        out = models_folder() / f"{card.network}.{card.origin.source}"
        _check_new(out)
    save(out, card, imported.variables)
    print(_about(imported, file, out))


def _check_new(out: Path) -> None:
    if out.exists():
        raise ValueError(
            f"{one_line(out)} is there already; remove it or choose another --out."
        )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{one_line(path)} is not text in UTF-8.") from None


def _about(imported: Imported, file: Path, out: Path) -> str:
    """What was read, for people, and what to do next."""
    card, arrays = imported.card, by_name(imported.variables)
    params = sum(x.size for name, x in arrays.items() if name.startswith("params/"))
    statistics = sum(x.size for x in arrays.values()) - params
    names = list(map(one_line, card.class_names))
    known = f"{len(names):,}: {names[0]} ... {names[-1]}" if names else "none: features"
    options = (
        *(card.network, "" if card.bn_scale else "batch norm without gamma"),
        "with aux head" if card.aux_head else "",
    )
    extras = len(imported.left_out)
    more = f"; {extras:,} more {'is' if extras == 1 else 'are'} not the network's"
    rows = {
        "file": f"{one_line(file)}, SHA-256 {card.origin.sha256}",
        "source": card.origin.source,
        "network": ", ".join(filter(None, options)),
        "arrays": f"{len(arrays):,}, each used once{more if extras else ''}",
        "numbers": f"{params:,} parameters, {statistics:,} moving statistics",
        "classes": known
        + (", without the background class" if card.origin.background_removed else ""),
        "images": describe_preprocessing(card.preprocess),
        "written": one_line(out),
    }
    lines = [f"{name:10} {text}" for name, text in rows.items()]
    model = one_line(out.name if out.parent == models_folder() else out)
    command = f"inception-jax predict IMAGE --model {model}"
    if not names:
        endpoint = "Embeddings" if card.network == FACENET else "global_pool"
        command = f"inception-jax features IMAGE --model {model}"
        command += f" --endpoint {endpoint} --out features.npz"
    return "\n".join([*lines, "", command])


def weights(
    command: Annotated[
        Annotated[None, tyro.conf.subcommand("import", constructor=import_weights)]
        | Annotated[None, tyro.conf.subcommand("export", constructor=export_model)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Weights of other libraries: import and export.

    Args:
        command: what to do.
    """
