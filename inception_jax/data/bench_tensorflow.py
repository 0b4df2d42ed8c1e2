# SPDX-License-Identifier: Apache-2.0
"""The reference for the benchmark: a tf.data pipeline like that of Flax's ImageNet example.

It decodes only a random crop of each JPEG file, resizes, flips, normalises and batches. The
crops are drawn from the same distribution as ours.
"""

import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.augment import MAX_ATTEMPTS
from inception_jax.data.optional import require


def tensorflow_batches(
    files: Sequence[bytes],
    *,
    batch_size: int,
    threads: int,
    preprocess: PreprocessSpec,
    augment: AugmentConfig,
    like_ours: bool,
) -> Iterator[Float32[np.ndarray, "b h w c"] | UInt8[np.ndarray, "b h w c"]]:
    """Return endless batches of random views of JPEG files.

    Args:
      threads: number of threads of tf.data.
      like_ours: bilinear resizing and uint8 pixels, as in our pipeline, instead of Flax's
        bicubic resizing and normalised float32.
    """
    # Keeps the import from printing advice. The pipeline does not use oneDNN.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    tf = require("tensorflow")
    tf.config.set_visible_devices([], "GPU")

    def view(data):
        image = _random_crop(tf, data, augment)
        size = preprocess.image_shape[:2]
        image = tf.image.resize(image, size, "bilinear" if like_ours else "bicubic")
        image = tf.image.random_flip_left_right(image)
        if like_ours:
            return tf.cast(tf.round(image), tf.uint8)
        low, high = preprocess.low, preprocess.high
        return image * ((high - low) / 255) + low

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False
    dataset = tf.data.Dataset.from_tensor_slices(list(files)).repeat().shuffle(len(files))
    dataset = dataset.map(view, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(2)
    # Without a copy, as in Flax's example.
    return (batch._numpy() for batch in dataset.with_options(options))


def _random_crop(tf: ModuleType, data: Any, augment: AugmentConfig) -> Any:
    """Decode a random crop of a JPEG file: a tensor of uint8 [h, w, 3]."""
    # The object to cover is the whole image.
    whole_image = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    offset, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        whole_image,
        min_object_covered=augment.min_covered,
        aspect_ratio_range=augment.ratio,
        area_range=augment.area,
        max_attempts=MAX_ATTEMPTS,
    )
    window = tf.concat([offset[:2], extent[:2]], axis=0)
    return tf.io.decode_and_crop_jpeg(data, window, channels=3)
