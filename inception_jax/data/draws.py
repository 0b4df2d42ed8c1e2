# SPDX-License-Identifier: Apache-2.0
"""Which examples a training batch holds, and what else chance decides about them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inception_jax.data.extra import require
from inception_jax.data.images import UnreadableImage
from inception_jax.data.prefetch import in_threads
from inception_jax.data.types import Source

if TYPE_CHECKING:
    import grain

# As good as for ever. That many, since batches of one of an endless dataset have a length
# that fits no index.
EPOCHS = 10**9


class Draw(NamedTuple):
    """What chance decides about an example of a training batch."""

    index: int
    view_seed: int
    color_seed: int


def draws(source: Source, seed: int) -> "grain.MapDataset":
    """A `Draw` for each example of all steps and hosts in turn, epoch after epoch."""
    # `seed` hashes: with `shuffle(seed=...)`, which counts up, epoch 1 of one seed would
    # be epoch 0 of the next.
    dataset = require("grain").MapDataset.range(len(source)).seed(seed)
    return dataset.shuffle().repeat(EPOCHS).random_map(_draw)


def _draw(index: int, rng: np.random.Generator) -> Draw:
    return Draw(index, int(rng.integers(2**63)), int(rng.integers(2**32)))


def train_positions(source: Source, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Positions in the source of the global batch's examples, in its order; reads none.

    `step` counts from 0, as the elements of `train_batches` do. With on_bad_image="skip",
    an example that cannot be read was replaced by the next one that can.
    """
    all_steps, first = draws(source, seed), step * batch_size
    return [all_steps[first + i].index for i in range(batch_size)]


def example_names(source: Source, positions: Sequence[int]) -> list[str]:
    """What the examples at these positions are called; "#7" for one that cannot be read.

    A name comes with its example: this reads the files, but decodes no image.
    """

    def name(i: int) -> str:
        try:
            return source.examples[positions[i]]["name"]
        except UnreadableImage:
            return f"#{positions[i]}"

    return in_threads(name, len(positions))
