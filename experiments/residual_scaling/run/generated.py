# SPDX-License-Identifier: Apache-2.0
"""Generated data: a random image for each class, plus noise.

"prototypes" is a task harder than ten digits, with many classes and much noise. "endless"
has ten classes and a million training images, so that 30,000 batches of 32 repeat none;
one training label in ten is random, but no test label is.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inception_jax.data.source import Example, Source

NOISE = 36.0  # grey levels


@dataclass(frozen=True)
class GeneratedData:
    """The parameters of a generated data set."""

    classes: int
    train: int  # number of images
    test: int
    contrast: float  # standard deviation of a class's pixels, in grey levels
    label_noise: float = 0.0  # share of the training labels that are random


GENERATED = {
    "prototypes": GeneratedData(classes=100, train=5_000, test=1_000, contrast=24.0),
    "endless": GeneratedData(
        classes=10, train=1_000_000, test=20_000, contrast=12.0, label_noise=0.1
    ),
}


@functools.cache
def open_generated(name: str, split: str, image_shape: tuple[int, int, int]) -> Source:
    """Open a data set of `GENERATED`; `split` is `train` or `eval`.

    An image depends only on the name, the split, its number and the shape.
    """
    examples = GeneratedExamples(name, split, image_shape)
    classes = tuple(f"class {label}" for label in range(GENERATED[name].classes))
    return Source(name, split, classes, examples)


class GeneratedExamples(Sequence[Example]):
    """Examples that are computed on access."""

    def __init__(self, name: str, split: str, image_shape: tuple[int, int, int]) -> None:
        self.name, self.split, self.data = name, split, GENERATED[name]
        shape = (self.data.classes, *image_shape)
        prototypes = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.means = 128 + self.data.contrast * prototypes

    def __len__(self) -> int:
        return self.data.train if self.split == "train" else self.data.test

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng([index, self.split == "train"])
        label = index % self.data.classes
        noise = rng.standard_normal(self.means.shape[1:], np.float32)
        image = np.clip(self.means[label] + NOISE * noise, 0, 255).astype(np.uint8)
        if self.split == "train" and rng.random() < self.data.label_noise:
            label = int(rng.integers(self.data.classes))
        return Example(image=image, label=label, name=f"{self.name} {self.split} #{index}")
