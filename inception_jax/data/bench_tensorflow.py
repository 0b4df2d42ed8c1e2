# SPDX-License-Identifier: Apache-2.0
"""The same work by TensorFlow, to compare with: a tf.data pipeline of the usual kind.

Like the Flax imagenet example's: decode only a random box of each JPEG file, resize,
flip, normalise, batch. Boxes are drawn as ours are, so that their sizes are the same.
"""

import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.optional import require

MAX_ATTEMPTS = 100  # as in ours


def tensorflow_batches(
    files: Sequence[bytes],
    *,
    batch_size: int,
    threads: int,
    preprocess: PreprocessSpec,
    augment: AugmentConfig,
    like_ours: bool,
) -> Iterator[Float32[np.ndarray, "b h w c"] | UInt8[np.ndarray, "b h w c"]]:
    """Endless batches of random views of JPEG files.

    Args:
      threads: that tf.data may use.
      like_ours: bilinear and uint8 instead of Flax's bicubic and normalised float32.
    """
    # Otherwise importing it prints advice; oneDNN has no part in this.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    tf = require("tensorflow")
    tf.config.set_visible_devices([], "GPU")

    def view(data):
        image = _random_box(tf, data, augment)
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
    # Without a copy, as Flax's example takes them.
    return (batch._numpy() for batch in dataset.with_options(options))


def _random_box(tf: ModuleType, data: Any, augment: AugmentConfig) -> Any:
    """A tensor of uint8 [h, w, 3]: that part of a JPEG file, the rest is not decoded."""
    # One box that covers the image is what has to be covered.
    everything = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    offset, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        everything,
        min_object_covered=augment.min_covered,
        aspect_ratio_range=augment.ratio,
        area_range=augment.area,
        max_attempts=MAX_ATTEMPTS,
    )
    window = tf.concat([offset[:2], extent[:2]], axis=0)
    return tf.io.decode_and_crop_jpeg(data, window, channels=3)
