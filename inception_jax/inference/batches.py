# SPDX-License-Identifier: Apache-2.0
"""A model applied to image files, batch by batch, on all devices of this machine."""

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
from inception_jax.runtime.collectives import Batch
from inception_jax.runtime.devices import local_devices
from inception_jax.runtime.parallel import ShardedFunction
from inception_jax.runtime.placement import replicate
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Variables


@dataclass(frozen=True)
class BatchOutputs:
    """What a batch of images gave, without those that could not be read."""

    paths: list[str]
    values: Any  # a tree of arrays [len(paths), ...]
    errors: list[str]  # of the others, each naming its file


def apply_to_files(
    model: Model,
    variables: Variables,
    paths: Sequence[str],
    function: Callable[..., Any],
    *,
    batch_size: int = 32,
) -> Iterator[BatchOutputs]:
    """`function(logits, endpoints)` of the images at `paths`, in their order.

    Images are decoded ahead by threads and prepared as the model's card says. The last
    batch is filled up, so that one program serves all.

    Raises ValueError on a batch_size below 1, ImportError without the `data` extra.
    """
    spec, devices = model.card.preprocess, local_devices()

    def apply(variables: Variables, batch: Batch, _: None) -> Any:
        images = normalize(batch["image"], spec.low, spec.high)
        return function(*model.apply(variables, images))

    mapped = ShardedFunction(apply, devices)
    variables = replicate(variables, variables, devices)
    labels = np.zeros(len(paths), np.int32)
    batches = eval_batches(
        Source("images", "all", (), FolderExamples(Path(), paths, labels)),
        preprocess=spec,
        batch_size=padded_size(len(paths), batch_size, len(devices)),
        on_bad_image="skip",
    )
    for batch in batches:
        values = jax.device_get(
            mapped(variables, mapped.place({"image": batch["image"]}), None)
        )
        good = np.flatnonzero(batch["mask"])
        yield BatchOutputs(
            [paths[i] for i in batch["index"][good]],
            jax.tree.map(lambda x, good=good: x[good], values),
            batch["skipped"],
        )


def padded_size(images: int, batch_size: int, devices: int) -> int:
    """Examples in a batch: `batch_size`, or for fewer images the next power of two, so
    that programs compiled for a few images serve about as many; a multiple of devices.

    Raises ValueError on a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    size = min(batch_size, 1 << (images - 1).bit_length())
    return -(-size // devices) * devices
