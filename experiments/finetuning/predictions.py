# SPDX-License-Identifier: Apache-2.0
"""Predictions of a model for every image of a split."""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from inception_jax.config import RunConfig
from inception_jax.data.batches import eval_batches
from inception_jax.data.source import Source
from inception_jax.inference.evaluate import view_probabilities
from inception_jax.runtime.devices import compiler_options
from inception_jax.weights.model import Model

BATCH_SIZE = 32  # images


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for the images of a split."""

    class_names: tuple[str, ...]
    names: tuple[str, ...]  # of the images
    positions: Int[np.ndarray, " n"]  # in the source
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        return self.probabilities.argmax(axis=1)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """Number of images by true class (rows) and predicted class."""
        k = len(self.class_names)
        pairs = self.labels * k + self.predicted
        return np.bincount(pairs, minlength=k * k).reshape(k, k)

    @property
    def mistakes(self) -> Int[np.ndarray, " m"]:
        """Misclassified images, those with the highest predicted probability first."""
        confidence = self.probabilities.max(axis=1)
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-confidence[wrong], kind="stable")]


def predict(
    model: Model, variables: dict, source: Source, config: RunConfig
) -> Predictions:
    """Return the probabilities for every readable image of `source`."""
    options = compiler_options(jax.default_backend())
    probabilities_of = jax.jit(partial(view_probabilities, model), compiler_options=options)
    positions, labels, probabilities = [], [], []
    with tqdm(total=len(source), unit="image", disable=None) as bar:
        for batch in eval_batches(
            source,
            preprocess=model.card.preprocess,
            batch_size=min(BATCH_SIZE, len(source)),
            on_bad_image=config.on_bad_image,
            workers=config.workers,
        ):
            of_batch = jax.device_get(
                probabilities_of(variables, {"image": batch["image"]})
            )
            valid = batch["mask"] > 0
            positions += batch["index"][valid].tolist()
            labels.append(batch["label"][valid])
            probabilities.append(of_batch[valid])
            bar.update(int(valid.sum()))
    names = tuple(source.examples[i]["name"] for i in positions)
    arrays = np.array(positions), np.concatenate(labels), np.concatenate(probabilities)
    return Predictions(model.card.class_names, names, *arrays)
