# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation batches: NumPy arrays from the examples of a source.

`train_batches` is a Grain pipeline: `sample_examples` chooses the examples of a batch, and
`_TrainLoader` decodes, crops and flips them in threads. Global batch t, including its
augmentation, depends only on (seed, t): it is the same for any number of hosts and workers,
and a run resumes by starting at t.

`eval_batches` yields every example once, loaded by `_EvalLoader`; the last batch is padded
and masked.

Pixels are uint8; colour distortion and normalisation are part of the compiled step.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt32

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.augment import train_view
from inception_jax.data.crops import eval_views, list_views
from inception_jax.data.decoding import UnreadableImage, decode_example
from inception_jax.data.optional import require
from inception_jax.data.prefetch import map_in_threads, prefetch
from inception_jax.data.sampling import SampledExample, sample_examples
from inception_jax.data.source import Source

if TYPE_CHECKING:
    import grain

OnBadImage = Literal["error", "skip"]

# With this many unreadable images in a row, the fault is probably in the disk.
MAX_SKIPPED = 100


class TrainBatch(TypedDict):
    """Examples of one training step."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    color_seed: NotRequired[UInt32[np.ndarray, " b"]]  # with AugmentConfig.color
    skipped: NotRequired[list[str]]  # with on_bad_image="skip": the error messages


class EvalBatch(TypedDict):
    """Examples of one evaluation step; the last batch is padded."""

    # [b, views, h, w, c] if there are several views of each image.
    image: UInt8[np.ndarray, "b h w c"] | UInt8[np.ndarray, "b views h w c"]
    label: Int32[np.ndarray, " b"]
    mask: Float32[np.ndarray, " b"]  # 0 for padding and skipped images, otherwise 1
    index: Int32[np.ndarray, " b"]  # position in the source; -1 for padding
    skipped: NotRequired[list[str]]  # with on_bad_image="skip": the error messages


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
    """Return this process's part of the training batches; element t is that of step t.

    Process h of n gets the h-th of n equal parts of the global batch, so the examples on
    each device, and therefore batch statistics and dropout, do not depend on the number of
    processes. Every epoch visits each example once, in a new order; a batch may extend into
    the next epoch.

    Args:
      augment: None disables augmentation and uses the evaluation crop.
      batch_size: examples per step over all hosts.
      seed: seed of the order and of the augmentation, from 0 to 2**32 - 1.
      on_bad_image: "skip" replaces an unreadable image with the next readable one of the
        source and adds the error message to `skipped`.

    Raises ValueError if batch_size is not a positive multiple of num_hosts or exceeds the
    size of the source, if host or seed is out of range, or if colour distortion is on for
    images of one channel. Raises ImportError if Grain is not installed. Accessing an
    element raises UnreadableImage if an image cannot be read; with "skip", only after 100
    unreadable images in a row.
    """
    per_host = _batch_size_per_host(batch_size, num_hosts, host)
    if batch_size > len(source):
        raise ValueError(f"batch_size {batch_size} exceeds the {len(source)} examples")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    if augment is not None and augment.color and preprocess.image_shape[2] != 3:
        raise ValueError(
            "colour can be changed only in images of 3 channels, got image_shape "
            f"{preprocess.image_shape}; set AugmentConfig.color to False."
        )
    load = _TrainLoader(source, preprocess, augment, on_bad_image)
    # Slice last: seeds are assigned by position in the global batch.
    return sample_examples(source, seed).batch(per_host, batch_fn=load)[host::num_hosts]


def train_iterator(
    dataset: "grain.MapDataset", *, start_step: int, workers: int
) -> Iterator[TrainBatch]:
    """Return an iterator over training batches from a step on, which loads them ahead.

    Args:
      workers: number of worker processes that load the batches; 0 loads them in threads of
        this process, with the same result. Worker processes import `__main__`, which must
        therefore be importable.

    Raises ValueError if start_step or workers is negative.
    """
    if start_step < 0:
        raise ValueError(f"start_step must be 0 or more, got {start_step}")
    return prefetch(dataset[start_step:], workers)


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
    """Return an iterator over this host's part of the evaluation batches.

    Every example occurs once. All hosts get the same number of batches of the same shape;
    the last batch is padded with zeros. The mask is 0 for padding and skipped images, so a
    mean over all hosts is sum(mask * value) / sum(mask).

    Args:
      batch_size: examples (not views) per step over all hosts.
      views: number of views of each image (see `list_views`); 1 adds no axis.
      on_bad_image: "skip" replaces an unreadable image with zeros of mask 0 and adds the
        error message to `skipped`.
      workers: as for `train_iterator`.

    Raises ValueError for an invalid batch_size, host or number of views. The iterator
    raises UnreadableImage unless on_bad_image is "skip".
    """
    per_host = _batch_size_per_host(batch_size, num_hosts, host)
    list_views(*preprocess.image_shape[:2], preprocess, views)  # raises if not supported
    first = host * per_host
    starts = require("grain").MapDataset.range(first, len(source) + first, batch_size)
    load = _EvalLoader(source, preprocess, views, per_host, on_bad_image)
    return prefetch(starts.map(load), workers)


@dataclass(frozen=True)
class _TrainLoader:
    """Load the sampled examples of a batch."""

    source: Source
    preprocess: PreprocessSpec
    augment: AugmentConfig | None
    on_bad_image: OnBadImage

    def __call__(self, samples: Sequence[SampledExample]) -> TrainBatch:
        size = len(samples)
        images = np.empty((size, *self.preprocess.image_shape), np.uint8)
        labels = np.empty(size, np.int32)
        errors: list[list[str]] = [[] for _ in samples]

        def load(i: int) -> None:
            pixels, labels[i] = self._read_first_readable(samples[i].position, errors[i])
            if self.augment is None:
                images[i] = eval_views(pixels, self.preprocess, 1)[0]
            else:
                rng = np.random.default_rng(samples[i].view_seed)
                images[i] = train_view(pixels, rng, self.preprocess, self.augment)

        map_in_threads(load, size)
        batch: TrainBatch = {"image": images, "label": labels}
        if self.augment is not None and self.augment.color:
            seeds = [sample.color_seed for sample in samples]
            batch["color_seed"] = np.array(seeds, np.uint32)
        if self.on_bad_image == "skip":
            batch["skipped"] = list(itertools.chain(*errors))
        return batch

    def _read_first_readable(
        self, index: int, errors: list[str]
    ) -> tuple[UInt8[np.ndarray, "h w c"], int]:
        """Read the first readable example from `index` on; append failures to `errors`."""
        while True:
            try:
                return _read(self.source, index, self.preprocess)
            except UnreadableImage as e:
                if self.on_bad_image == "error":
                    raise
                errors.append(str(e))
                if len(errors) == min(MAX_SKIPPED, len(self.source)):
                    raise UnreadableImage(
                        f"{len(errors)} images in a row cannot be read; the last: {e}"
                    ) from e
                index = (index + 1) % len(self.source)


@dataclass(frozen=True)
class _EvalLoader:
    """Load the batch that starts at a position of the source."""

    source: Source
    preprocess: PreprocessSpec
    views: int
    size: int
    on_bad_image: OnBadImage

    def __call__(self, start: int) -> EvalBatch:
        images = np.zeros((self.size, self.views, *self.preprocess.image_shape), np.uint8)
        labels = np.zeros(self.size, np.int32)
        mask = np.zeros(self.size, np.float32)
        index = np.arange(start, start + self.size, dtype=np.int32)
        index[index >= len(self.source)] = -1
        errors = [""] * self.size

        def load(i: int) -> None:
            if index[i] < 0:
                return
            try:
                pixels, label = _read(self.source, int(index[i]), self.preprocess)
            except UnreadableImage as e:
                if self.on_bad_image == "error":
                    raise
                errors[i] = str(e)
                return
            images[i] = eval_views(pixels, self.preprocess, self.views)
            labels[i], mask[i] = label, 1

        map_in_threads(load, self.size)
        batch: EvalBatch = {
            "image": images[:, 0] if self.views == 1 else images,
            "label": labels,
            "mask": mask,
            "index": index,
        }
        if self.on_bad_image == "skip":
            batch["skipped"] = [error for error in errors if error]
        return batch


def _read(
    source: Source, index: int, preprocess: PreprocessSpec
) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    example = source.examples[index]
    return decode_example(example, preprocess.image_shape[2]), example["label"]


def _batch_size_per_host(batch_size: int, num_hosts: int, host: int) -> int:
    if not 0 <= host < num_hosts:
        raise ValueError(f"host must be from 0 to {num_hosts - 1}, got {host}")
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f"batch_size {batch_size} is not a positive multiple of {num_hosts} hosts"
        )
    return batch_size // num_hosts
