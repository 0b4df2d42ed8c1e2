# SPDX-License-Identifier: Apache-2.0
"""Images and labels: records with random access, and batches as a function of the step.

Training batches come from a Grain pipeline in which global batch t, augmentation
included, depends on (seed, t) alone: the same on 1, 2 or 4 hosts, and resuming is
starting at t. Evaluation batches hold every example once and mask their padding. No
TensorFlow is needed; the `data` extra's packages are imported where they are used.
"""

import contextlib
import functools
import importlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, UInt8

if TYPE_CHECKING:
    import grain
    import tensorflow_datasets


class Record(TypedDict):
    """One example: an image from 0 to 255 and the index of its class."""

    image: UInt8[np.ndarray, "h w c"]
    label: int


class Batch(TypedDict):
    """Examples of one step, images in [-1, 1]; for evaluation a mask, 0 for padding."""

    image: Float32[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    mask: NotRequired[Float32[np.ndarray, " b"]]


# Image [h, w, c], uint8, and a generator of random numbers -> new image, 0 to 255.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def load_source(name: str, split: str, data_dir: str | None = None) -> Sequence[Record]:
    """Examples of a data set, prepared on first use and decoded into memory.

    Args:
      name: `digits`, scikit-learn's handwritten digits (see `digits_builder`).
      split: `train` or `test`, or TFDS's notation for a part, such as `train[:100]`.
      data_dir: folder of prepared data sets. Default: TFDS's, which is `$TFDS_DATA_DIR`
        or `~/tensorflow_datasets`.

    Raises ValueError on an unknown name or split, ImportError without the `data` extra.
    """
    if name != "digits":
        raise ValueError(f"unknown source {name!r}; known is 'digits'")
    with _quiet_absl():
        return list(map(_in_memory, prepare_digits(data_dir).as_data_source(split)))


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """TFDS advises, once, to decode with OpenCV; for images of 8x8 that is no matter."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_memory(record: dict[str, Any]) -> Record:
    # One array serves every epoch: an augmentation must not write into it.
    record["image"].flags.writeable = False
    return {"image": record["image"], "label": record["label"]}


@functools.cache
def digits_builder() -> type:
    """TFDS builder class `Digits`: 1,797 scans, 8x8x1, of handwritten digits.

    scikit-learn holds grey levels 0..16; the PNG files hold round(level * 255 / 16), and
    round(pixel / 255 * 16) gives the level back. scikit-learn ships no split: here the
    first 1,500 are `train`, the last 297 `test`, each in scikit-learn's order. It goes
    form by form (the labels repeat about every 130), so `test` holds other forms, hence
    mostly other writers, than `train`, except for the one that the boundary cuts in two.

    Source: https://archive.ics.uci.edu/dataset/80 (test set; E. Alpaydin, C. Kaynak).
    """
    tfds = _require("tensorflow_datasets")

    # Registering it would refuse a second one, as after a reload of this module.
    class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # nothing is downloaded, so there are no checksums

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="The handwritten digits of scikit-learn.",
                features=tfds.features.FeaturesDict(features),
                homepage="https://archive.ics.uci.edu/dataset/80",
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            train = self._generate_examples(0, 1500)
            return {"train": train, "test": self._generate_examples(1500, 1797)}

        def _generate_examples(self, start, stop):
            return list(enumerate(_digit_examples()))[start:stop]

    return Digits


def _digit_examples() -> Iterator[dict[str, Any]]:
    """Every scan as PNG bytes with its label, in scikit-learn's order."""
    digits = _require("sklearn.datasets").load_digits()
    pillow = _require("PIL.Image")
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for image, label in zip(pixels, digits.target, strict=True):
        png = io.BytesIO()
        pillow.fromarray(image).save(png, format="PNG")
        yield {"image": png.getvalue(), "label": int(label)}


def prepare_digits(data_dir: str | None) -> "tensorflow_datasets.core.DatasetBuilder":
    """Builder of `digits` with its files in place; writes them where they are not.

    They are written into a temporary folder, which then gets the final name: nothing of
    an interrupted run is ever read, and of several processes the first to finish wins.

    Raises OSError where data_dir cannot be written, ImportError without the `data` extra.
    """
    builder = _digits(data_dir)
    if _is_complete(builder):
        return builder
    folder = Path(builder.data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # TFDS has a temporary folder too, but names it by the `random` module's global state,
    # which is the same in processes that seed it.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incomplete.") as parent:
        builder = _digits(parent)
        # What TFDS prints would name the temporary folder; and this takes a second.
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder.download_and_prepare(file_format="array_record")
        with contextlib.suppress(OSError):  # where another process was faster
            Path(builder.data_dir).rename(folder)
        if not _is_complete(_digits(data_dir)):
            # Files are missing there, as after a copy that was cut short.
            with contextlib.suppress(FileNotFoundError):
                folder.rename(tempfile.mkdtemp(dir=parent))
            Path(builder.data_dir).rename(folder)
    return _digits(data_dir)


def _digits(data_dir: str | None) -> "tensorflow_datasets.core.DatasetBuilder":
    return digits_builder()(data_dir=data_dir and os.path.expanduser(data_dir))


def _is_complete(builder: "tensorflow_datasets.core.DatasetBuilder") -> bool:
    files = [file for split in builder.info.splits.values() for file in split.filepaths]
    return bool(files) and all(file.exists() for file in files)


def train_batches(
    source: Sequence[Record],
    *,
    batch_size: int,
    seed: int,
    num_hosts: int = 1,
    host: int = 0,
    augment: Augment | None = None,
) -> "grain.MapDataset":
    """This host's part of the training batches; element t is the `Batch` of step t.

    Host h of n gets the examples h, h + n, ... of a global batch. Every epoch visits each
    example once, in an order of its own; a batch may reach into the next epoch.

    Args:
      batch_size: examples per step over all hosts.
      seed: of the order and of the augmentation, from 0 to 2**32 - 1.
      augment: see `Augment`; its images must have one shape.

    Raises ValueError if batch_size is no positive multiple of num_hosts or is larger than
    the source, or if host or seed is out of range; ImportError without Grain.
    """
    per_host = _per_host(batch_size, num_hosts, host)
    if batch_size > len(source):
        raise ValueError(f"batch_size {batch_size} exceeds the {len(source)} examples")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    # `seed` hashes: with `shuffle(seed=...)`, which counts up, epoch 1 of one seed would
    # be epoch 0 of the next.
    dataset = _require("grain").MapDataset.source(source).seed(seed)
    dataset = dataset.shuffle().repeat(None)
    if augment is not None:
        # Before the slice, so that randomness goes by the position over all hosts.
        dataset = dataset.random_map(functools.partial(_augment_record, augment))
    return dataset[host::num_hosts].batch(per_host, batch_fn=_batch)


def eval_batches(
    source: Sequence[Record], *, batch_size: int, num_hosts: int = 1, host: int = 0
) -> Iterator[Batch]:
    """This host's part of the evaluation batches: every example exactly once.

    All hosts get equally many batches of equal shape. Zeros with mask 0 fill the last; the
    masks of all hosts sum to `len(source)`, so a mean is sum(mask * value) / sum(mask).

    Raises ValueError on a batch_size (over all hosts) or host as `train_batches` does.
    """
    _per_host(batch_size, num_hosts, host)
    return (
        _padded_batch(source, range(start + host, start + batch_size, num_hosts))
        for start in range(0, len(source), batch_size)
    )


def _padded_batch(source: Sequence[Record], indices: range) -> Batch:
    # Past the end, any record has the shape of the zeros.
    batch = _batch([source[i % len(source)] for i in indices])
    mask = np.array(indices) < len(source)
    batch["image"][~mask] = 0
    batch["label"][~mask] = 0
    return {**batch, "mask": mask.astype(np.float32)}


def _per_host(batch_size: int, num_hosts: int, host: int) -> int:
    if not 0 <= host < num_hosts:
        raise ValueError(f"host must be from 0 to {num_hosts - 1}, got {host}")
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f"batch_size {batch_size} is not a positive multiple of {num_hosts} hosts"
        )
    return batch_size // num_hosts


def _augment_record(augment: Augment, record: Record, rng: np.random.Generator) -> Record:
    return {**record, "image": augment(record["image"], rng)}


def _batch(records: Sequence[Record]) -> Batch:
    images = np.stack([record["image"] for record in records]).astype(np.float32)
    labels = np.array([record["label"] for record in records], np.int32)
    return {"image": images / 127.5 - 1, "label": labels}


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ImportError(f'{module} is missing: pip install "inception_jax[data]"') from e
