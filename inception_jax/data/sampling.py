# SPDX-License-Identifier: Apache-2.0
"""The random choices of training: the order of examples and the seeds of augmentation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inception_jax.data.decoding import UnreadableImage
from inception_jax.data.optional import require
from inception_jax.data.prefetch import map_in_threads
from inception_jax.data.source import Source

if TYPE_CHECKING:
    import grain

# Practically endless. With a truly endless dataset, the number of batches would overflow.
NUM_EPOCHS = 10**9


class SampledExample(NamedTuple):
    """The position of an example in its source, and the seeds of its augmentation."""

    position: int
    view_seed: int
    color_seed: int


def sample_examples(source: Source, seed: int) -> "grain.MapDataset":
    """Return the endless sequence of sampled examples; each epoch is a permutation."""
    # `shuffle(seed=...)` adds the epoch to the seed, so epoch 1 of one seed would equal
    # epoch 0 of the next; `.seed(seed)` hashes the two.
    dataset = require("grain").MapDataset.range(len(source)).seed(seed)
    return dataset.shuffle().repeat(NUM_EPOCHS).random_map(_draw_seeds)


def _draw_seeds(position: int, rng: np.random.Generator) -> SampledExample:
    return SampledExample(position, int(rng.integers(2**63)), int(rng.integers(2**32)))


def train_positions(source: Source, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Return the positions in the source of a global batch's examples, in order.

    No example is read. `step` counts from 0, like the elements of `train_batches`. Examples
    that on_bad_image="skip" would replace are included.
    """
    sampled, first = sample_examples(source, seed), step * batch_size
    return [sampled[first + i].position for i in range(batch_size)]


def example_names(source: Source, positions: Sequence[int]) -> list[str]:
    """Return the names of the examples at these positions; an unreadable one is "#7".

    The files are read, but no image is decoded.
    """

    def name(i: int) -> str:
        try:
            return source.examples[positions[i]]["name"]
        except UnreadableImage:
            return f"#{positions[i]}"

    return map_in_threads(name, len(positions))
