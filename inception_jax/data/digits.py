# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's handwritten digits: real images that need no download."""

import contextlib
import functools
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inception_jax.data.optional import require
from inception_jax.data.source import Example, Source
from inception_jax.data.tfds import read_split

if TYPE_CHECKING:
    import tensorflow_datasets


def open_digits(split: str, data_dir: str | None) -> Source:
    """The digits (see `digits_builder`), prepared on first use and decoded into memory.

    `split` is `train`, `test`, which is `eval` too, or a part in TFDS's notation. Raises
    ValueError on another one, ImportError without the `data` extra.
    """
    with _quiet_absl():
        folder = Path(prepare_digits(data_dir).data_dir)
        examples = _in_memory(folder, split)
    return Source("digits", split, tuple(map(str, range(10))), examples)


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


# Runs of one process decode once.
@functools.lru_cache(maxsize=8)
def _in_memory(folder: Path, split: str) -> tuple[Example, ...]:
    examples = []
    for index, record in enumerate(read_split(_digits(str(folder.parents[1])), split)):
        # One array serves every epoch: an augmentation must not write into it.
        record["image"].flags.writeable = False
        name = f"digits {split} #{index}"
        examples.append({"image": record["image"], "label": record["label"], "name": name})
    return tuple(examples)


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
    tfds = require("tensorflow_datasets")

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
            return list(enumerate(digit_examples()))[start:stop]

    return Digits


def digit_examples() -> Iterator[dict[str, Any]]:
    """Every scan as PNG bytes with its label, in scikit-learn's order."""
    digits = require("sklearn.datasets").load_digits()
    pillow = require("PIL.Image")
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
