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
    """Open the digits (see `digits_builder`), prepared on first use and held in memory.

    Raises ValueError if the split is unknown, and ImportError without the `data` extra.
    """
    with _quiet_absl():
        examples = _in_memory(Path(prepare_digits(data_dir).data_dir), split)
    return Source("digits", split, tuple(map(str, range(10))), examples)


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Suppress TFDS's advice to decode with OpenCV, which is irrelevant for 8x8 images."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# Cached, so that several runs in one process decode the images only once.
@functools.lru_cache(maxsize=8)
def _in_memory(folder: Path, split: str) -> tuple[Example, ...]:
    examples = []
    for index, record in enumerate(read_split(_builder(str(folder.parents[1])), split)):
        record["image"].flags.writeable = False  # every epoch uses the same array
        name = f"digits {split} #{index}"
        examples.append(Example(image=record["image"], label=record["label"], name=name))
    return tuple(examples)


@functools.cache
def digits_builder() -> type:
    """Return the TFDS builder class `Digits`: 1,797 scans, 8x8x1, of handwritten digits.

    The PNG files hold round(level * 255 / 16) for scikit-learn's grey levels 0 to 16;
    round(pixel / 255 * 16) recovers them. scikit-learn defines no split: we use the first
    1,500 as `train` and the last 297 as `test`, in scikit-learn's order. That order follows
    the forms that people filled in (the labels repeat about every 130 images), so the forms
    in `test`, and hence most writers, are not in `train`, except for one at the boundary.

    Source: https://archive.ics.uci.edu/dataset/80 (test set; E. Alpaydin, C. Kaynak).
    """
    tfds = require("tensorflow_datasets")

    base: Any = tfds.core.GeneratorBasedBuilder

    # Not registered, because that fails when this module is reloaded.
    class Digits(base, skip_registration=True):  # type: ignore[call-arg]
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
    """Yield every scan as PNG bytes with its label, in scikit-learn's order."""
    digits = require("sklearn.datasets").load_digits()
    pillow = require("PIL.Image")
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for image, label in zip(pixels, digits.target, strict=True):
        png = io.BytesIO()
        pillow.fromarray(image).save(png, format="PNG")
        yield {"image": png.getvalue(), "label": int(label)}


def prepare_digits(data_dir: str | None) -> "tensorflow_datasets.core.DatasetBuilder":
    """Return a builder of `digits`; write its files if any is missing.

    The files are written to a temporary folder, which is then renamed: the files of an
    interrupted run are never read, and the first of several processes to finish wins.

    Raises OSError if data_dir is not writable, and ImportError without the `data` extra.
    """
    builder = _builder(data_dir)
    if _is_complete(builder):
        return builder
    folder = Path(builder.data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # TFDS uses a temporary folder, too, but its name comes from the global state of the
    # `random` module, which is the same in processes that seed it.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incomplete.") as parent:
        builder = _builder(parent)
        # TFDS would print progress bars and the name of the temporary folder.
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            builder.download_and_prepare(file_format="array_record")
        with contextlib.suppress(OSError):  # another process was faster
            Path(builder.data_dir).rename(folder)
        if not _is_complete(_builder(data_dir)):
            # The existing folder is incomplete, for example after an interrupted copy.
            with contextlib.suppress(FileNotFoundError):
                folder.rename(tempfile.mkdtemp(dir=parent))
            Path(builder.data_dir).rename(folder)
    return _builder(data_dir)


def _builder(data_dir: str | None) -> "tensorflow_datasets.core.DatasetBuilder":
    return digits_builder()(data_dir=data_dir and os.path.expanduser(data_dir))


def _is_complete(builder: "tensorflow_datasets.core.DatasetBuilder") -> bool:
    files = [file for split in builder.info.splits.values() for file in split.filepaths]
    return bool(files) and all(file.exists() for file in files)
