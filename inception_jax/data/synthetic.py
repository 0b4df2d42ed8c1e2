# SPDX-License-Identifier: Apache-2.0
"""Made-up photos of ImageNet's size as JPEG files, for smoke runs and measurements."""

import colorsys
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from inception_jax.data.imagenet import (
    NUM_CLASSES,
    NUM_TRAIN_IMAGES,
    NUM_VALIDATION_IMAGES,
)
from inception_jax.data.optional import require
from inception_jax.data.source import Example, Source
from inception_jax.data.splits import parse_split, part_positions

# Height and width of most of ImageNet's photos, and of those turned by a quarter.
SIZES = ((375, 500), (333, 500), (500, 375))
# With this much noise the files have about 110 kB, ImageNet's mean (138 GB / 1.28 million).
NOISE, QUALITY = 16, 92
_ROOM = 256  # places, down and across, for a window of the noise
_NAME = re.compile(r"synthetic(?::(\d+)x(\d+))?")


def open_synthetic(name: str, split: str) -> Source:
    """`synthetic`, with as many classes and images as ImageNet, or `synthetic:10x200`.

    The latter has 10 classes, 200 training images and a tenth as many, 20, in `eval`. An
    image depends on split and position alone and is made when it is asked for. The class
    decides colour, direction and width of its stripes; each image has its own phase, light
    and noise.

    Raises ValueError on another name or split.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match[1] and (int(match[1]) < 2 or int(match[2]) < 10)):
        raise ValueError(
            f"unknown source {name!r}; expected synthetic or synthetic:CLASSESxIMAGES with "
            "2 classes and 10 images or more, such as synthetic:10x200."
        )
    kind, part = parse_split(split, ("train", "eval"))
    classes, train, held_out = NUM_CLASSES, NUM_TRAIN_IMAGES, NUM_VALIDATION_IMAGES
    if match[1]:
        classes, train = int(match[1]), int(match[2])
        held_out = train // 10
    positions = part_positions(train if kind == "train" else held_out, part)
    names = tuple(f"class {label}" for label in range(classes))
    return Source(name, split, names, SyntheticExamples(kind, classes, positions))


@dataclass(frozen=True)
class SyntheticExamples(Sequence[Example]):
    """JPEG files of striped pictures; the classes take turns."""

    kind: str
    classes: int
    positions: range

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:
        position = self.positions[index]
        label = position % self.classes
        rng = np.random.default_rng([position, self.kind == "train"])
        pixels = _striped_picture(label / self.classes, rng)
        data = require("simplejpeg").encode_jpeg(pixels, QUALITY, colorsubsampling="420")
        return {"image": data, "label": label, "name": f"{self.kind}/{position}.jpg"}


@functools.cache
def _noise() -> Float32[np.ndarray, "h w 3"]:
    """Noise that every image takes a window of: drawing it anew would take most time."""
    side = max(map(max, SIZES)) + _ROOM
    return np.random.default_rng(0).standard_normal((side, side, 3), np.float32) * NOISE


def _striped_picture(share: float, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Stripes whose hue, direction and width follow from `share`, from 0 to 1."""
    height, width = SIZES[rng.integers(len(SIZES))]
    # Multiples of the share, mod 1, give neighbouring classes other stripes.
    angle = (7 * share % 1) * np.pi / 2  # within a quarter turn: mirrored, it is no other
    period = 12 + 36 * (31 * share % 1)  # pixels
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y) * np.float32(2 * np.pi / period)
    stripes = np.sin(along + np.float32(rng.uniform(0, 2 * np.pi)))[..., None]
    color = np.array(colorsys.hsv_to_rgb(share, 0.8, 1), np.float32)
    light = np.float32(rng.uniform(0.6, 1))
    top, left = rng.integers(_ROOM, size=2)
    noise = _noise()[top : top + height, left : left + width]
    return np.clip((128 + 80 * stripes) * color * light + noise, 0, 255).astype(np.uint8)
