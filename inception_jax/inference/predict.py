# SPDX-License-Identifier: Apache-2.0
"""Prediction of the most likely classes of images, and its output as JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jaxtyping import Array, Float

from inception_jax.data.imagenet import class_title
from inception_jax.inference.batches import BatchOutputs, apply_to_files
from inception_jax.models.stem import Endpoints
from inception_jax.storage.files import CheckpointError
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Variables

CSV_HEADER = ("image", "rank", "class", "title", "probability")


@dataclass(frozen=True)
class Guess:
    """A class and its probability, the softmax of the logits."""

    class_name: str  # as in the model's card
    probability: float

    @property
    def title(self) -> str:
        """The class name in English for an ImageNet class, else `class_name`."""
        return class_title(self.class_name)


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of an image, the most likely first."""

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
    """Yield predictions of the `top` most likely classes, and errors, batch by batch.

    The errors are those of unreadable images. Raises ValueError if the model has
    no classes or `top` or batch_size is below 1, CheckpointError if a probability is NaN.
    """
    names = model.card.class_names
    if not names:
        raise ValueError(
            f"{model.card.network} has no classifier; for its features use "
            "inception-jax features IMAGE... --endpoint NAME --out FILE."
        )
    if top < 1:
        raise ValueError(f"top must be 1 or more, got {top}.")
    top = min(top, len(names))

    def most_likely(logits: Float[Array, "n k"], _: Endpoints) -> Sequence[Array]:
        return jax.lax.top_k(jax.nn.softmax(logits), top)

    outputs = apply_to_files(model, variables, paths, most_likely, batch_size=batch_size)
    return ((_predictions(batch, names), batch.errors) for batch in outputs)


def _predictions(batch: BatchOutputs, names: Sequence[str]) -> list[Prediction]:
    probabilities, classes = batch.values
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise CheckpointError(
            f"the probabilities of {batch.paths[bad[0]]!r} are NaN: weights or moving "
            "averages of the model are NaN, infinite or too large."
        )
    predictions = []
    for path, row, indices in zip(batch.paths, probabilities, classes, strict=True):
        pairs = zip(indices, row, strict=True)
        guesses = tuple(Guess(names[index], float(p)) for index, p in pairs)
        predictions.append(Prediction(path, guesses))
    return predictions


def to_json(
    card: Card, model: str, predictions: Sequence[Prediction], errors: Sequence[str]
) -> str:
    """Return predictions, a description of their model, and errors as a JSON text."""
    images = []
    for prediction in predictions:
        guesses = [
            {"class": g.class_name, "title": g.title, "probability": g.probability}
            for g in prediction.guesses
        ]
        images.append({"image": prediction.path, "predictions": guesses})
    about = {
        "model": {
            "name": model,
            "network": card.network,
            "classes": len(card.class_names),
            "origin": asdict(card.origin),
            "preprocess": asdict(card.preprocess),
        },
        "images": images,
        "not_read": list(errors),
    }
    return json.dumps(about, indent=1) + "\n"


def to_csv(predictions: Sequence[Prediction]) -> str:
    """Return a CSV text with `CSV_HEADER` and a row for each image and rank."""
    text = io.StringIO()
    # By default, csv does not quote a name with a carriage return.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(CSV_HEADER)
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses, 1):
            row = (prediction.path, rank, guess.class_name, guess.title, guess.probability)
            writer.writerow(row)
    return text.getvalue()
