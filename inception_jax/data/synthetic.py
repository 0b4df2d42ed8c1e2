# SPDX-License-Identifier: Apache-2.0
"""Synthetic photos of ImageNet's size as JPEG files, for smoke tests and benchmarks."""

import colorsys
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from inception_jax.data import imagenet
from inception_jax.data.optional import require
from inception_jax.data.source import Example, Source
from inception_jax.data.splits import parse_split, part_positions

# Height and width of most ImageNet photos; the last size is portrait.
SIZES = ((375, 500), (333, 500), (500, 375))
# This noise gives files of about 110 kB, ImageNet's mean (138 GB / 1.28 million).
NOISE, QUALITY = 16, 92
_NUM_OFFSETS = 256  # of the window into the noise, in each direction
_NAME = re.compile(r"synthetic(?::(\d+)x(\d+))?")


def open_synthetic(name: str, split: str) -> Source:
    """Open `synthetic`, of ImageNet's size, or for example `synthetic:10x200`.

    The latter has 10 classes, 200 images in `train` and a tenth of that, 20, in `eval`. An
    image depends only on its split and position and is generated on access. Its class
    determines the colour, direction and width of its stripes; phase, brightness and noise
    are random.

    Raises ValueError for any other name or split.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match[1] and (int(match[1]) < 2 or int(match[2]) < 10)):
        raise ValueError(
            f"unknown source {name!r}; expected synthetic or synthetic:CLASSESxIMAGES with "
            "at least 2 classes and 10 images, such as synthetic:10x200."
        )
    kind, part = parse_split(split, ("train", "eval"))
    if match[1]:
        classes, num_train, num_eval = int(match[1]), int(match[2]), int(match[2]) // 10
    else:
        classes = imagenet.NUM_CLASSES
        num_train, num_eval = imagenet.NUM_TRAIN_IMAGES, imagenet.NUM_VALIDATION_IMAGES
    positions = part_positions(num_train if kind == "train" else num_eval, part)
    names = tuple(f"class {label}" for label in range(classes))
    return Source(name, split, names, SyntheticExamples(kind, classes, positions))


@dataclass(frozen=True)
class SyntheticExamples(Sequence[Example]):
    """JPEG files of striped images; the labels cycle through the classes."""

    kind: str
    classes: int
    positions: range

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        position = self.positions[index]
        label = position % self.classes
        rng = np.random.default_rng([position, self.kind == "train"])
        pixels = _striped_image(label / self.classes, rng)
        data = require("simplejpeg").encode_jpeg(pixels, QUALITY, colorsubsampling="420")
        return {"image": data, "label": label, "name": f"{self.kind}/{position}.jpg"}


@functools.cache
def _noise() -> Float32[np.ndarray, "h w 3"]:
    """Return noise from which every image uses a window, because drawing it is slow."""
    side = max(map(max, SIZES)) + _NUM_OFFSETS
    return np.random.default_rng(0).standard_normal((side, side, 3), np.float32) * NOISE


def _striped_image(hue: float, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Return stripes of a hue from 0 to 1, which also determines direction and width."""
    height, width = SIZES[rng.integers(len(SIZES))]
    # Multiples of the hue, modulo 1, make neighbouring classes differ. Angles are less than
    # a quarter turn, so that a mirrored image does not look like another class.
    angle = (7 * hue % 1) * np.pi / 2
    period = 12 + 36 * (31 * hue % 1)  # pixels
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y) * np.float32(2 * np.pi / period)
    stripes = np.sin(along + np.float32(rng.uniform(0, 2 * np.pi)))[..., None]
    color = np.array(colorsys.hsv_to_rgb(hue, 0.8, 1), np.float32)
    brightness = np.float32(rng.uniform(0.6, 1))
    top, left = rng.integers(_NUM_OFFSETS, size=2)
    noise = _noise()[top : top + height, left : left + width]
    pixels = (128 + 80 * stripes) * color * brightness + noise
    return np.clip(pixels, 0, 255).astype(np.uint8)
