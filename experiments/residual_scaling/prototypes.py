# SPDX-License-Identifier: Apache-2.0
"""A synthetic task harder than ten digits: many classes and much noise."""

import functools

import numpy as np

from inception_jax.data.source import Source

NUM_TEST = 1000
CONTRAST, NOISE = 24.0, 36.0  # grey levels of a class's prototype and of the noise


@functools.cache
def open_prototypes(
    split: str, image_shape: tuple[int, int, int], num_classes: int, num_train: int
) -> Source:
    """Create examples: a prototype of independent pixels for each class, plus noise.

    `split` is `train` or `eval` (1,000 examples). Equal arguments give equal images.
    """
    count = num_train if split == "train" else NUM_TEST
    images, labels = _generate(split, image_shape, num_classes, count)
    examples = [
        {"image": image, "label": int(label), "name": f"prototypes {split} #{i}"}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    names = tuple(f"class {label}" for label in range(num_classes))
    return Source("prototypes", split, names, examples)


def _generate(
    split: str, image_shape: tuple[int, int, int], num_classes: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    shape = (num_classes, *image_shape)
    prototypes = np.random.default_rng(0).standard_normal(shape, np.float32)
    rng = np.random.default_rng([1, split == "train"])
    labels = np.arange(count) % num_classes
    images = np.empty((count, *image_shape), np.uint8)
    for i, label in enumerate(labels):  # one at a time, to save memory
        noise = rng.standard_normal(image_shape, np.float32)
        pixels = 128 + CONTRAST * prototypes[label] + NOISE * noise
        images[i] = np.clip(pixels, 0, 255)
    images.flags.writeable = False
    return images, labels
