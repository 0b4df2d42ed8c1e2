# SPDX-License-Identifier: Apache-2.0
"""Model folders: weights with everything needed to use them.

model.json           the card (network, classes, preprocessing, origin) and digests
weights.safetensors  params/... and batch_stats/..., in float32
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from inception_jax.config import AblationConfig, PreprocessSpec
from inception_jax.storage.digests import Record, flatten_with_paths, json_digest
from inception_jax.storage.files import as_damaged, atomic_output, check_new
from inception_jax.storage.run_folder import dataclass_from_json
from inception_jax.text import first_few

Variables = dict[str, dict]

CARD_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"


@dataclass(frozen=True)
class Origin:
    """Where the weights come from."""

    source: str  # "run", or the library that wrote the file: "timm", "slim", ...
    file: str  # name of the file, or path of the run folder
    sha256: str | None = None  # of the file
    step: int | None = None  # of the run
    weights: str | None = None  # of the run: "raw" or "ema"
    # Files of TF-slim and Cadene have a background class before the others.
    background_removed: bool = False


@dataclass(frozen=True)
class Card:
    """A model card: everything needed to use the weights."""

    network: str
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]  # empty: no classifier, the output is features
    origin: Origin
    bn_scale: bool = True
    aux_head: bool = False
    residual_scale: float | None = None  # None: the published scales
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def write(folder: Path, card: Card, variables: Variables) -> None:
    """Write a new model folder.

    Raises ValueError if it exists, or CheckpointError if writing fails.
    """
    check_new(folder)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32, order="C"), variables)
    about = json.loads(card.to_json())
    arrays = Record.of(0, variables).to_json()
    text = json.dumps({"card": about, "sha256": json_digest(about), "arrays": arrays})
    with atomic_output(folder) as draft:
        draft.mkdir(parents=True)
        safetensors.numpy.save_file(flatten_with_paths(variables), draft / WEIGHTS_FILE)
        (draft / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def is_model_folder(folder: Path) -> bool:
    """Return whether this is a model folder, which may be damaged."""
    return (folder / CARD_FILE).is_file()


def read_card(folder: Path) -> Card:
    """Read only the card. Raises CheckpointError if it is damaged."""
    with as_damaged(folder / CARD_FILE):
        return _read_json(folder)[0]


def read(folder: Path) -> tuple[Card, dict[str, np.ndarray]]:
    """Read the card and the arrays by name, such as params/Logits/kernel.

    Raises CheckpointError, naming the arrays, if a digest does not match.
    """
    with as_damaged(folder / CARD_FILE):
        card, record = _read_json(folder)
    with as_damaged(folder / WEIGHTS_FILE):
        arrays = safetensors.numpy.load_file(folder / WEIGHTS_FILE)
        if damaged := record.damaged_leaves(arrays):
            raise ValueError(f"checksum mismatch of {first_few(damaged)}")
    return card, arrays


def _read_json(folder: Path) -> tuple[Card, Record]:
    content = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    if json_digest(content["card"]) != content["sha256"]:
        raise ValueError("checksum mismatch of the card")
    return dataclass_from_json(Card, content["card"]), Record.from_json(content["arrays"])
