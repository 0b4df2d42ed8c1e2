# SPDX-License-Identifier: Apache-2.0
"""Batches as a function of the step, loaded ahead by threads or by worker processes.

Training batches come from a Grain pipeline in which global batch t, augmentation
included, depends on (seed, t) alone: the same on 1, 2 or 4 hosts and for any number of
workers, and resuming is starting at t. Evaluation batches hold every example once and
mask what fills the last. Pixels are 0 to 255; range and colour are the step's to change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.augment import train_view
from inception_jax.data.crops import eval_views, list_views
from inception_jax.data.draws import Draw, draws
from inception_jax.data.extra import require
from inception_jax.data.images import UnreadableImage, pixels_of
from inception_jax.data.prefetch import ahead, in_threads
from inception_jax.data.types import EvalBatch, Source, TrainBatch

if TYPE_CHECKING:
    import grain

OnBadImage = Literal["error", "skip"]

# With more unreadable images than this in a row it is the disk, not the images.
MAX_SKIPPED = 100


def train_batches(
    source: Source,
    *,
    preprocess: PreprocessSpec,
    augment: AugmentConfig | None,
    batch_size: int,
    seed: int,
    num_hosts: int = 1,
    host: int = 0,
    on_bad_image: OnBadImage = "error",
) -> "grain.MapDataset":
    """This host's part of the training batches; element t is the `TrainBatch` of step t.

    Host h of n gets the h-th of n parts of a global batch: what lies on which device is
    the same for any number of hosts, and so are batch statistics and dropout. Every epoch
    visits each example once, in an order of its own; a batch may reach into the next epoch.

    Args:
      augment: None for images as in evaluation.
      batch_size: examples per step over all hosts.
      seed: of the order and of the augmentation, from 0 to 2**32 - 1.
      on_bad_image: "skip" takes, for an image that cannot be read, the next one of the
        source that can, and puts what was wrong into `skipped`.

    Raises ValueError if batch_size is no positive multiple of num_hosts or is larger than
    the source, if host or seed is out of range, or on colour for one channel; ImportError
    without Grain. Its elements raise UnreadableImage, with "skip" after 100 in a row.
    """
    per_host = _per_host(batch_size, num_hosts, host)
    if batch_size > len(source):
        raise ValueError(f"batch_size {batch_size} exceeds the {len(source)} examples")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    _check_channels(preprocess, augment)
    load = _TrainLoader(source, preprocess, augment, on_bad_image)
    # Sliced last, so that randomness goes by the position over all hosts.
    return draws(source, seed).batch(per_host, batch_fn=load)[host::num_hosts]


def train_iterator(
    dataset: "grain.MapDataset", *, start_step: int, workers: int
) -> Iterator[TrainBatch]:
    """The batches of `train_batches` from a step on, loaded ahead.

    `workers` is the number of processes that load them; 0 is threads of this one. The
    batches do not depend on it. Worker processes need a `__main__` that can be imported.

    Raises ValueError on negative numbers.
    """
    if start_step < 0:
        raise ValueError(f"start_step must be 0 or more, got {start_step}")
    return ahead(dataset[start_step:], workers)


def eval_batches(
    source: Source,
    *,
    preprocess: PreprocessSpec,
    batch_size: int,
    views: int = 1,
    num_hosts: int = 1,
    host: int = 0,
    on_bad_image: OnBadImage = "error",
    workers: int = 0,
) -> Iterator[EvalBatch]:
    """This host's part of the evaluation batches: every example exactly once.

    All hosts get equally many batches of equal shape. Zeros with mask 0 fill the last; the
    masks of all hosts sum to `len(source)`, so a mean is sum(mask * value) / sum(mask).

    Args:
      batch_size: examples, not views, per step over all hosts.
      views: of each image, see `list_views`; 1 makes no axis of its own.
      on_bad_image: "skip" gives an image that cannot be read zeros and mask 0, and puts
        what was wrong into `skipped`.
      workers: as for `train_iterator`.

    Raises ValueError on a batch_size or host as `train_batches` does, and on views that
    `list_views` refuses; the iterator raises UnreadableImage.
    """
    per_host = _per_host(batch_size, num_hosts, host)
    list_views(*preprocess.image_shape[:2], preprocess, views)  # may refuse
    first = host * per_host
    starts = require("grain").MapDataset.range(first, len(source) + first, batch_size)
    load = _EvalLoader(source, preprocess, views, per_host, on_bad_image)
    return ahead(starts.map(load), workers)


@dataclass(frozen=True)
class _TrainLoader:
    """From what was drawn to a batch."""

    source: Source
    preprocess: PreprocessSpec
    augment: AugmentConfig | None
    on_bad_image: OnBadImage

    def __call__(self, drawn: Sequence[Draw]) -> TrainBatch:
        images = np.empty((len(drawn), *self.preprocess.image_shape), np.uint8)

        def load(i: int) -> tuple[int, list[str]]:
            pixels, label, skipped = self._first_readable(drawn[i].index)
            images[i] = self._view(pixels, drawn[i].view_seed)
            return label, skipped

        labels, skipped = zip(*in_threads(load, len(drawn)), strict=True)
        batch: TrainBatch = {"image": images, "label": np.array(labels, np.int32)}
        if self.augment is not None and self.augment.color:
            batch["color_seed"] = np.array([d.color_seed for d in drawn], np.uint32)
        if self.on_bad_image == "skip":
            batch["skipped"] = [fault for faults in skipped for fault in faults]
        return batch

    def _first_readable(
        self, index: int
    ) -> tuple[UInt8[np.ndarray, "h w c"], int, list[str]]:
        skipped: list[str] = []
        while True:
            try:
                return (*_read(self.source, index, self.preprocess), skipped)
            except UnreadableImage as e:
                skipped.append(str(e))
                if self.on_bad_image == "error":
                    raise
                if len(skipped) == min(MAX_SKIPPED, len(self.source)):
                    raise UnreadableImage(
                        f"{len(skipped)} images in a row cannot be read; the last: {e}"
                    ) from e
                index = (index + 1) % len(self.source)

    def _view(
        self, pixels: UInt8[np.ndarray, "h w c"], seed: int
    ) -> UInt8[np.ndarray, "h2 w2 c"]:
        if self.augment is None:
            return eval_views(pixels, self.preprocess, 1)[0]
        rng = np.random.default_rng(seed)
        return train_view(pixels, rng, self.preprocess, self.augment)


@dataclass(frozen=True)
class _EvalLoader:
    """From the position of a batch's first example to the batch."""

    source: Source
    preprocess: PreprocessSpec
    views: int
    size: int
    on_bad_image: OnBadImage

    def __call__(self, start: int) -> EvalBatch:
        n, shape = self.size, self.preprocess.image_shape
        index = np.arange(start, start + n, dtype=np.int32)
        index[index >= len(self.source)] = -1
        images = np.zeros((n, self.views, *shape), np.uint8)

        def load(i: int) -> tuple[int, bool, list[str]]:
            if index[i] < 0:
                return 0, False, []
            try:
                pixels, label = _read(self.source, int(index[i]), self.preprocess)
            except UnreadableImage as e:
                if self.on_bad_image == "error":
                    raise
                return 0, False, [str(e)]
            images[i] = eval_views(pixels, self.preprocess, self.views)
            return label, True, []

        labels, counted, skipped = zip(*in_threads(load, n), strict=True)
        batch: EvalBatch = {
            "image": images[:, 0] if self.views == 1 else images,
            "label": np.array(labels, np.int32),
            "mask": np.array(counted, np.float32),
            "index": index,
        }
        if self.on_bad_image == "skip":
            batch["skipped"] = [fault for faults in skipped for fault in faults]
        return batch


def _read(
    source: Source, index: int, preprocess: PreprocessSpec
) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    example = source.examples[index]
    return pixels_of(example, preprocess.image_shape[2]), example["label"]


def _check_channels(preprocess: PreprocessSpec, augment: AugmentConfig | None) -> None:
    if augment is not None and augment.color and preprocess.image_shape[2] != 3:
        raise ValueError(
            "colour can be changed only in images of 3 channels, got image_shape "
            f"{preprocess.image_shape}; set AugmentConfig.color to False."
        )


def _per_host(batch_size: int, num_hosts: int, host: int) -> int:
    if not 0 <= host < num_hosts:
        raise ValueError(f"host must be from 0 to {num_hosts - 1}, got {host}")
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f"batch_size {batch_size} is not a positive multiple of {num_hosts} hosts"
        )
    return batch_size // num_hosts
