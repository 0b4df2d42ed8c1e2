# SPDX-License-Identifier: Apache-2.0
"""The likeliest classes of images, and how they are handed on: JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from inception_jax.data.imagenet import class_title
from inception_jax.inference.batches import apply_to_files
from inception_jax.models.stem import Endpoints
from inception_jax.storage.errors import CheckpointError
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Variables

CSV_HEADER = ("image", "rank", "class", "title", "probability")


@dataclass(frozen=True)
class Guess:
    """A class and its probability, the softmax of the logits."""

    class_name: str  # as the model's card has it
    probability: float

    @property
    def title(self) -> str:
        """What people call the class."""
        return class_title(self.class_name)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, the likeliest first."""

    path: str
    guesses: tuple[Guess, ...]


def predict(
    model: Model,
    variables: Variables,
    paths: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
) -> Iterator[tuple[list[Prediction], list[str]]]:
    """Batch by batch: predictions of `top` classes, or of all there are, and what was
    wrong with the images that could not be read.

    Raises ValueError on a model without classes, a `top` or batch_size below 1,
    CheckpointError where the weights give no number.
    """
    names = model.card.class_names
    if not names:
        raise ValueError(
            f"{model.card.network} was loaded without classes, it gives features: use "
            "inception-jax features IMAGE... --endpoint NAME --out FILE."
        )
    if top < 1:
        raise ValueError(f"top must be 1 or more, got {top}.")
    top = min(top, len(names))

    def likeliest(
        logits: Float[Array, "n k"], _: Endpoints
    ) -> list[Float[Array, "n top"] | Int[Array, "n top"]]:
        return jax.lax.top_k(jax.nn.softmax(logits), top)

    def batches() -> Iterator[tuple[list[Prediction], list[str]]]:
        each = apply_to_files(model, variables, paths, likeliest, batch_size=batch_size)
        for batch in each:
            probabilities, classes = batch.values
            _check_finite(batch.paths, probabilities)
            rows = zip(batch.paths, probabilities, classes, strict=True)
            yield (
                [Prediction(path, _guesses(names, p, k)) for path, p, k in rows],
                (batch.errors),
            )

    return batches()


def _guesses(
    names: Sequence[str], probabilities: Float[np.ndarray, " top"], classes: np.ndarray
) -> tuple[Guess, ...]:
    pairs = zip(probabilities, classes, strict=True)
    return tuple(Guess(names[k], float(p)) for p, k in pairs)


def _check_finite(paths: Sequence[str], values: Float[np.ndarray, "n top"]) -> None:
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise CheckpointError(
            f"the weights give no number for {paths[wrong[0]]!r}: they, or moving averages "
            "among them, are not finite or too large."
        )


def to_json(
    card: Card, model: str, predictions: Sequence[Prediction], faults: Sequence[str]
) -> str:
    """Predictions, the model they are from and what could not be read, as text."""
    about = {
        "model": {
            "name": model,
            "network": card.network,
            "classes": len(card.class_names),
            "origin": asdict(card.origin),
            "preprocess": asdict(card.preprocess),
        },
        "images": [
            {"image": p.path, "predictions": [_entry(guess) for guess in p.guesses]}
            for p in predictions
        ],
        "not_read": list(faults),
    }
    return json.dumps(about, indent=1) + "\n"


def _entry(guess: Guess) -> dict[str, Any]:
    return {
        "class": guess.class_name,
        "title": guess.title,
        "probability": guess.probability,
    }


def to_csv(predictions: Sequence[Prediction]) -> str:
    """A row for each image and rank, under `CSV_HEADER`."""
    text = io.StringIO()
    # Quoted are all texts: by itself, csv does not for a name with a carriage return.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(CSV_HEADER)
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses, 1):
            row = (prediction.path, rank, guess.class_name, guess.title, guess.probability)
            writer.writerow(row)
    return text.getvalue()
