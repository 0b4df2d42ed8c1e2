# SPDX-License-Identifier: Apache-2.0
"""Weights to use and to hand on, with all that has to be known of them, as a folder.

model.json           network, classes, preprocessing, where it is from, digests
weights.safetensors  params/... and batch_stats/..., in float32
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from inception_jax.config import AblationConfig, PreprocessSpec
from inception_jax.storage.atomic import new_file
from inception_jax.storage.digests import (
    CheckpointError,
    Record,
    by_name,
    json_digest,
    some,
)
from inception_jax.storage.run_folder import from_json

Variables = dict[str, dict]

CARD_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"


@dataclass(frozen=True)
class Origin:
    """Where weights are from."""

    source: str  # "run", or who wrote the file: "timm", "slim", ...
    file: str  # its name, or that of the run's folder
    sha256: str | None = None  # of the file
    step: int | None = None  # of a run
    weights: str | None = None  # of a run: "raw" or "ema"
    # A first class for "none of them", as slim's files have, was left out.
    background_removed: bool = False


@dataclass(frozen=True)
class Card:
    """What has to be known to use weights."""

    network: str
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]  # none: the network gives features
    origin: Origin
    bn_scale: bool = True
    aux_head: bool = False
    residual_scale: float | None = None  # None: the network's own
    ablation: AblationConfig = field(default_factory=AblationConfig)


def write(folder: Path, card: Card, variables: Variables) -> None:
    """Write a model folder, whole or not at all.

    Raises ValueError where the folder is there already, CheckpointError where it cannot be
    written.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already; remove it or choose another.")
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32, order="C"), variables)
    about = json.loads(json.dumps(asdict(card)))
    arrays = Record.of(0, variables).to_json()
    text = json.dumps({"card": about, "sha256": json_digest(about), "arrays": arrays})
    with new_file(folder) as draft:
        draft.mkdir(parents=True)
        safetensors.numpy.save_file(by_name(variables), draft / WEIGHTS_FILE)
        (draft / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def is_model_folder(folder: Path) -> bool:
    """Whether `write` made it; what is in it may be damaged."""
    return (folder / CARD_FILE).is_file()


def read_card(folder: Path) -> Card:
    """The card alone; raises CheckpointError where it is damaged."""
    with _said_of(folder / CARD_FILE):
        return _read_json(folder)[0]


def read(folder: Path) -> tuple[Card, dict[str, np.ndarray]]:
    """The card and the arrays by name, such as params/Logits/kernel, all verified.

    Raises CheckpointError, naming the arrays, where something is not as it was written.
    """
    with _said_of(folder / CARD_FILE):
        card, record = _read_json(folder)
    with _said_of(folder / WEIGHTS_FILE):
        arrays = safetensors.numpy.load_file(folder / WEIGHTS_FILE)
        if damaged := record.damaged(arrays):
            raise CheckpointError(f"not as they were written: {some(damaged)}")
    return card, arrays


def _read_json(folder: Path) -> tuple[Card, Record]:
    found = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    if json_digest(found["card"]) != found["sha256"]:
        raise CheckpointError("its card is not as it was written")
    return from_json(Card, found["card"]), Record.from_json(found["arrays"])


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
