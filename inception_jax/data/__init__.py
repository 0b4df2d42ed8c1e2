# SPDX-License-Identifier: Apache-2.0
"""Images and labels: sources with random access, and batches as a function of the step.

No TensorFlow is needed; the `data` extra's packages are imported where they are used.
"""

from inception_jax.data.batches import eval_batches, train_batches, train_iterator
from inception_jax.data.draws import example_names, train_positions
from inception_jax.data.images import UnreadableImage, decode
from inception_jax.data.sources import open_source
from inception_jax.data.types import EvalBatch, Example, Source, TrainBatch

__all__ = [
    "EvalBatch",
    "Example",
    "Source",
    "TrainBatch",
    "UnreadableImage",
    "decode",
    "eval_batches",
    "example_names",
    "open_source",
    "train_batches",
    "train_iterator",
    "train_positions",
]
