# SPDX-License-Identifier: Apache-2.0
"""A tiny data set with the name, version and features of TFDS's `imagenet2012`."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

LABELS = (0, 1, 2, 999)  # the classes in use, in this order


def prepare_tiny_imagenet(data_dir: str, *, train: int = 24, validation: int = 8) -> None:
    """Write the data set: noise images whose brightness depends on the class.

    Neither TensorFlow nor the network is used.
    """
    real = tfds.builder_cls("imagenet2012")

    class Tiny(real, skip_registration=True):
        name = real.name
        pkg_dir_path = real.pkg_dir_path
        url_infos = None  # nothing is downloaded, so there are no checksums

        def _split_generators(self, dl_manager):
            sizes = {"train": train, "validation": validation}
            return {split: examples(split, size) for split, size in sizes.items()}

    # TFDS prints and draws progress bars.
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        Tiny(data_dir=data_dir).download_and_prepare(file_format="array_record")


def examples(split: str, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys and examples in their order before TFDS shuffles them."""
    rng = np.random.default_rng(0)
    for i in range(size):
        shape = (*rng.integers(40, 60, 2), 3)
        kind = i % len(LABELS)
        pixels = rng.integers(60 * kind, 60 * kind + 60, shape, np.uint8)
        file_name = f"{split}_{i:05}.JPEG"
        yield (
            file_name,
            {
                "image": simplejpeg.encode_jpeg(pixels),
                "label": LABELS[kind],
                "file_name": file_name,
            },
        )
