# SPDX-License-Identifier: Apache-2.0
"""Files of arrays under this package's names: .safetensors or .npz, including the card.

Both formats are read without this package and without pickle. If writing fails, it raises
CheckpointError and leaves no file.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from inception_jax.storage.files import as_damaged, atomic_output
from inception_jax.storage.run_folder import dataclass_from_json
from inception_jax.weights.model_folder import CARD_FILE, Card

Arrays = Mapping[str, np.ndarray]
# Texts among the arrays of an .npz: the card, and the record of a run.
TEXTS = (CARD_FILE, "run.json")


def write_npz(
    out: Path, card: Card, arrays: Arrays, texts: Mapping[str, str] | None = None
) -> None:
    """Write arrays in float32, the card, and other texts by name to an .npz file."""
    texts = {CARD_FILE: card.to_json(), **(texts or {})}
    content: dict[str, Any] = {name: np.array(text) for name, text in texts.items()}
    content |= float32(arrays)
    with atomic_output(out) as draft, draft.open("wb") as file:
        np.savez(file, **content)


def write_safetensors(out: Path, card: Card, arrays: Arrays) -> None:
    """Write arrays in float32, and the card as metadata, to a .safetensors file."""
    # Libraries for PyTorch require this format.
    metadata = {"format": "pt", CARD_FILE: card.to_json()}
    with atomic_output(out) as draft:
        safetensors.numpy.save_file(float32(arrays), draft, metadata)


def split_card(path: Path, content: Arrays) -> tuple[Card, dict[str, np.ndarray]]:
    """Return the card and the arrays of a file written by one of the functions above.

    `content` is what `read_file.read_arrays` read. Raises ValueError if the file has no
    card, or CheckpointError if the card is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            text = str(content[CARD_FILE])
        else:
            with safetensors.safe_open(path, framework="np") as file:
                text = (file.metadata() or {})[CARD_FILE]
    except (KeyError, OSError, SafetensorError):
        raise ValueError(
            "the file has no card, so it was not exported from a model."
        ) from None
    with as_damaged(path):
        card = dataclass_from_json(Card, json.loads(text))
    return card, {name: x for name, x in content.items() if name not in TEXTS}


def float32(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return arrays in float32, or integers unchanged, in the C order of safetensors."""
    converted = {}
    for name, x in arrays.items():
        dtype = x.dtype if np.issubdtype(x.dtype, np.integer) else np.float32
        converted[name] = np.asarray(x, dtype, order="C")
    return converted
