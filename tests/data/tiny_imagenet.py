# SPDX-License-Identifier: Apache-2.0
"""A tiny data set that TFDS takes for `imagenet2012`: its name, version and features."""

import contextlib
import io

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

LABELS = (0, 1, 2, 999)


def prepare_tiny_imagenet(
    data_dir: str, *, train: int = 24, validation: int = 8, file_format="array_record"
) -> None:
    """Write it; of grey noise whose brightness tells the four classes in use apart.

    Neither TensorFlow nor the network is used.
    """
    real = tfds.builder_cls("imagenet2012")

    class Tiny(real, skip_registration=True):
        name = real.name
        pkg_dir_path = real.pkg_dir_path
        url_infos = None  # nothing is downloaded, so there are no checksums

        def _split_generators(self, dl_manager):
            return {
                "train": _examples("train", train),
                "validation": _examples("val", validation),
            }

    # TFDS draws progress bars.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        Tiny(data_dir=data_dir).download_and_prepare(file_format=file_format)


def _examples(prefix: str, n: int):
    rng = np.random.default_rng(0)
    for i in range(n):
        shape = (rng.integers(40, 60), rng.integers(40, 60), 3)
        pixels = rng.integers(0, 64, shape, np.uint8) + np.uint8(i % len(LABELS) * 60)
        file_name = f"{prefix}_{i:05}.JPEG"
        jpeg = simplejpeg.encode_jpeg(pixels)
        yield file_name, {"image": jpeg, "label": LABELS[i % 4], "file_name": file_name}
