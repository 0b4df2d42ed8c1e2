# SPDX-License-Identifier: Apache-2.0
"""Application of a model to image files, in batches, on all devices of this machine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax.data.augment import normalize
from inception_jax.data.batches import eval_batches
from inception_jax.data.folder import FolderExamples
from inception_jax.data.source import Source
from inception_jax.runtime.devices import local_devices
from inception_jax.runtime.parallel import ShardedFunction, replicate
from inception_jax.training.step import Batch
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Variables


@dataclass(frozen=True)
class BatchOutputs:
    """The outputs for a batch of images, and the errors of unreadable images."""

    paths: list[str]
    values: Any  # a tree of arrays [len(paths), ...]
    errors: list[str]  # each names its file


def apply_to_files(
    model: Model,
    variables: Variables,
    paths: Sequence[str],
    function: Callable[..., Any],
    *,
    batch_size: int = 32,
) -> Iterator[BatchOutputs]:
    """Yield `function(logits, endpoints)` for the images at `paths`, in order.

    Threads decode and preprocess images ahead of use, as the model's card specifies. The
    last batch is padded, so that one compiled program serves all batches.

    Raises ValueError if batch_size is below 1, or ImportError without the `data` extra.
    """
    spec, devices = model.card.preprocess, local_devices()

    def apply(variables: Variables, batch: Batch, _: None) -> Any:
        images = normalize(batch["image"], spec.low, spec.high)
        return function(*model.apply(variables, images))

    step = ShardedFunction(apply, devices)
    variables = replicate(variables, variables, devices)
    labels = np.zeros(len(paths), np.int32)
    batches = eval_batches(
        Source("images", "all", (), FolderExamples(Path(), paths, labels)),
        preprocess=spec,
        batch_size=padded_size(len(paths), batch_size, len(devices)),
        on_bad_image="skip",
    )
    for batch in batches:
        placed = step.place({"image": batch["image"]})
        values = jax.device_get(step(variables, placed, None))
        good = np.flatnonzero(batch["mask"])
        yield BatchOutputs(
            [paths[i] for i in batch["index"][good]],
            jax.tree.map(lambda x, good=good: x[good], values),
            batch["skipped"],
        )


def padded_size(images: int, batch_size: int, devices: int) -> int:
    """Return the number of examples in a batch, a multiple of `devices`.

    It is `batch_size` or, for fewer images, the next power of two, so that a program
    compiled for a few images serves similar numbers of them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    size = min(batch_size, 1 << (images - 1).bit_length())
    return -(-size // devices) * devices
