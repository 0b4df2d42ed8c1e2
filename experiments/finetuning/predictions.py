# SPDX-License-Identifier: Apache-2.0
"""What a model says of every picture of a split."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from inception_jax.config import RunConfig
from inception_jax.data.batches import eval_batches
from inception_jax.data.source import Source
from inception_jax.inference.evaluate import view_probabilities
from inception_jax.runtime.parallel import compiler_options
from inception_jax.weights.model import Model

BATCH_SIZE = 32  # pictures at once


@dataclass(frozen=True)
class Predictions:
    """What a model says of some pictures."""

    class_names: tuple[str, ...]
    positions: Int[np.ndarray, " n"]  # in the source
    names: tuple[str, ...]  # of the pictures
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        return self.probabilities.argmax(axis=1)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """Number of pictures by true class (rows) and predicted class."""
        k = len(self.class_names)
        pairs = self.labels * k + self.predicted
        return np.bincount(pairs, minlength=k * k).reshape(k, k)

    @property
    def mistakes(self) -> Int[np.ndarray, " m"]:
        """Those that are wrong, the surest first."""
        sure = self.probabilities.max(axis=1)
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-sure[wrong], kind="stable")]


def predict(
    model: Model, variables: dict, source: Source, config: RunConfig
) -> Predictions:
    """Probabilities for every picture of `source` that can be read."""
    card, size = model.card, min(BATCH_SIZE, len(source))
    options = compiler_options(jax.default_backend())
    look = jax.jit(partial(view_probabilities, model), compiler_options=options)
    found: list[tuple[Any, Any, Any]] = []
    with tqdm(total=len(source), unit="image", disable=None) as bar:
        for batch in eval_batches(
            source,
            preprocess=card.preprocess,
            batch_size=size,
            on_bad_image=config.on_bad_image,
            workers=config.workers,
        ):
            probabilities = look(variables, {"image": batch["image"]})
            kept = batch["mask"] > 0
            parts = (batch["index"], batch["label"], jax.device_get(probabilities))
            found.append(tuple(part[kept] for part in parts))
            bar.update(int(kept.sum()))
    positions, labels, probabilities = map(np.concatenate, zip(*found, strict=True))
    names = tuple(source.examples[i]["name"] for i in positions.tolist())
    return Predictions(card.class_names, positions, names, labels, probabilities)
