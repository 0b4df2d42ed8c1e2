# SPDX-License-Identifier: Apache-2.0
"""Arrays under our own names in one file, .safetensors or .npz, with their card as text.

Both formats are read without this package and without pickle.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from inception_jax.storage.atomic import new_file
from inception_jax.storage.digests import CheckpointError
from inception_jax.storage.run_folder import from_json
from inception_jax.text import one_line
from inception_jax.weights.model_folder import CARD_FILE, Card

Arrays = Mapping[str, np.ndarray]
# Text beside the arrays of an .npz; the second is the record of a run.
TEXTS = (CARD_FILE, "run.json")


def write_npz(
    out: Path, card: Card, arrays: Arrays, texts: Mapping[str, str] | None = None
) -> None:
    """Write an .npz whole: arrays in float32, the card and other texts as strings.

    Raises CheckpointError where it cannot be written.
    """
    content = float32(arrays) | {
        name: np.array(text)
        for name, text in {CARD_FILE: card_text(card), **(texts or {})}.items()
    }
    with new_file(out) as draft, draft.open("wb") as file:
        np.savez(file, **content)


def write_safetensors(out: Path, card: Card, arrays: Arrays) -> None:
    """Write a .safetensors whole: arrays in float32, the card in its metadata.

    "format": "pt" is what libraries for PyTorch look for before they read a file.

    Raises CheckpointError where it cannot be written.
    """
    about = {"format": "pt", CARD_FILE: card_text(card)}
    with new_file(out) as draft:
        safetensors.numpy.save_file(float32(arrays), draft, about)


def read(path: Path) -> tuple[Card, dict[str, np.ndarray]]:
    """The card and the arrays of what the two others wrote.

    Raises ValueError where it is no such file, CheckpointError where it is damaged.
    """
    try:
        with path.open("rb") as file:
            is_npz = file.read(2) == b"PK"
            file.seek(0)
            text, arrays = _of_npz(file) if is_npz else _of_safetensors(path)
        return from_json(Card, json.loads(text)), arrays
    except KeyError:
        raise ValueError(
            f"{one_line(path)} was not exported from a model: it has no card."
        ) from None
    # NotImplementedError: a way of compression that zipfile does not have.
    except (
        *(SafetensorError, zipfile.BadZipFile, zlib.error, NotImplementedError),
        *(ValueError, TypeError, EOFError, OSError),
    ) as error:
        raise CheckpointError(
            f"{one_line(path)} cannot be read: {one_line(error)}."
        ) from error


def _of_npz(file: BinaryIO) -> tuple[str, dict[str, np.ndarray]]:
    with np.load(file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files if name not in TEXTS}
        return str(found[CARD_FILE]), arrays


def _of_safetensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    with safetensors.safe_open(path, framework="np") as found:
        text = (found.metadata() or {})[CARD_FILE]
        return text, {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


def float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """In C order, which safetensors asks for, and float32; integers stay what they are."""
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    return {
        name: np.asarray(x, x.dtype if x.dtype.kind == "i" else np.float32, order="C")
        for name, x in arrays.items()
    }


def card_text(card: Card) -> str:
    """The card as JSON."""
    return json.dumps(asdict(card))
