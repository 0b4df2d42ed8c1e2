# SPDX-License-Identifier: Apache-2.0
"""Cropping and resizing: the 1, 10, 12 or 144 views of an image in evaluation.

  1 view: the central crop that `PreprocessSpec` describes.
  10 views: AlexNet's (NeurIPS 2012, section 4.1), also used for ResNet. The shorter side is
    resized to size / crop_fraction; the views are the corners and the centre of the central
    square.
  12 views: used in Table 3 (arXiv 1602.07261) but not defined there. We take those of the
    144 views that come from the first scale and the central square.
  144 views: GoogLeNet's (arXiv 1409.4842, section 7). Each of four scales gives the
    squares at both ends and at the centre of the longer side; each square gives its four
    corners, its centre and the whole square, resized.

With several views, each crop is also mirrored, and the aspect ratio is always kept.
"""

import functools
import math
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from inception_jax.config import PreprocessSpec
from inception_jax.data.optional import require

# The shorter sides in pixels for crops of 224x224 in the GoogLeNet paper, which gives none
# for other sizes; we scale them in proportion.
GOOGLENET_SHORT_SIDES = (256, 288, 320, 352)
GOOGLENET_SIZE = 224


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """How to make one view: resize the image, crop, resize the crop, mirror it."""

    resized: tuple[int, int]  # height and width of the whole image before cropping
    box: Box  # crop of the resized image, then stretched to the input size of the network
    flip: bool


def list_views(height: int, width: int, spec: PreprocessSpec, views: int) -> list[View]:
    """Return the views of an image of height x width pixels; mirrored views come last.

    Raises ValueError if `views` is not 1, 10, 12 or 144, or if there are several views and
    the input of the network is not square.
    """
    if views == 1:
        return [_central_view(height, width, spec)]
    rows, columns, _ = spec.image_shape
    if views not in (10, 12, 144):
        raise ValueError(f"views must be 1, 10, 12 or 144, got {views}.")
    if rows != columns:
        raise ValueError(
            f"{views} views are defined for square inputs, got image_shape "
            f"{spec.image_shape}; use 1 view."
        )
    unflipped = []
    for short_side in _short_sides(spec, views):
        resized = _covering_size(height, width, (short_side, short_side))
        first, central, last = _squares(*resized)
        for square in (first, central, last) if views == 144 else (central,):
            boxes = _corners_and_center(square, rows)
            if views != 10:
                boxes.append(square)
            unflipped += [View(resized, box, False) for box in boxes]
    return unflipped + [view._replace(flip=True) for view in unflipped]


def eval_views(
    image: UInt8[np.ndarray, "h w c"], spec: PreprocessSpec, views: int
) -> UInt8[np.ndarray, "views height width c"]:
    """Return the pixels of the views of `list_views`, each of shape `spec.image_shape`.

    Raises ValueError as `list_views` does, or ImportError without the `data` extra.
    """
    image_height, image_width, _ = image.shape
    height, width, _ = spec.image_shape
    planned = list_views(image_height, image_width, spec, views)
    sizes = {view.resized for view in planned}
    resized_images = {size: resize(image, size, spec.resize) for size in sizes}
    pixels = np.empty((views, *spec.image_shape), np.uint8)
    for i, view in enumerate(planned):
        cropped = crop(resized_images[view.resized], view.box)
        cropped = resize(cropped, (height, width), spec.resize)
        pixels[i] = mirror(cropped) if view.flip else cropped
    return pixels


def describe_preprocessing(spec: PreprocessSpec) -> str:
    """Return a description of the central view from which it can be reproduced."""
    height, width, channels = spec.image_shape
    colour = "RGB" if channels == 3 else "grey"
    if spec.aspect == "stretch":
        geometry = f"the central {spec.crop_fraction:g} of both sides stretched to"
    else:
        rows, columns = _size_to_cover(spec)
        geometry = f"resized (same aspect) to cover {rows}x{columns}, then the central"
    step = (spec.high - spec.low) / 255
    sign = "-" if spec.low < 0 else "+"
    return (
        f"{colour}, {geometry} {height}x{width}, {spec.resize}; a pixel p from 0 to 255 "
        f"becomes p * {step:.8g} {sign} {abs(spec.low):.8g}"
    )


def central_box(height: int, width: int, fraction: float) -> Box:
    """Return the central `fraction` of both sides, rounded as by tf.image.central_crop."""
    top, left = (int((side - side * fraction) / 2) for side in (height, width))
    return Box(top, left, height - 2 * top, width - 2 * left)


def crop(image: UInt8[np.ndarray, "h w c"], box: Box) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Return the part of the image inside the box, without copying it."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def mirror(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Return the image flipped left to right. Raises ImportError without OpenCV."""
    # Copying image[:, ::-1] takes 30 times as long.
    return _opencv().flip(image, 1).reshape(image.shape)


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    kernel: Literal["bilinear", "bicubic"],
) -> UInt8[np.ndarray, "height width c"]:
    """Resize the whole image to a height and width, stretching it if the aspect differs.

    "bilinear" is `tf.image.resize` without antialiasing and with pixel centres at half
    integers. (slim's `resize_bilinear` places them at integers, which shifts the image by
    up to half a pixel.) A side of more than twice the target size is first averaged down by
    about an integer factor, so that large photos do not alias. "bicubic" is Pillow's, as in
    timm, with antialiasing. An image that already has the size is returned unchanged.

    Raises ImportError without the `data` extra.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    if kernel == "bicubic":
        pillow = require("PIL.Image")
        picture = pillow.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture = picture.resize((width, height), pillow.Resampling.BICUBIC)
        return np.array(picture).reshape(height, width, -1)
    cv2 = _opencv()
    h, w = image.shape[:2]
    factor_h, factor_w = math.ceil(h / (2 * height)), math.ceil(w / (2 * width))
    if max(factor_h, factor_w) > 1:
        smaller = (round(w / factor_w), round(h / factor_h))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.reshape(height, width, -1)


def _central_view(height: int, width: int, spec: PreprocessSpec) -> View:
    if spec.aspect == "stretch":
        box = central_box(height, width, spec.crop_fraction)
        return View((height, width), box, False)
    rows, columns = spec.image_shape[:2]
    resized = _covering_size(height, width, _size_to_cover(spec))
    return View(resized, _center(Box(0, 0, *resized), rows, columns), False)


def _size_to_cover(spec: PreprocessSpec) -> tuple[int, int]:
    # As timm 1.0.31 for square inputs: floor(size / crop_fraction), then torchvision's
    # Resize and CenterCrop.
    rows, columns = (math.floor(x / spec.crop_fraction) for x in spec.image_shape[:2])
    return rows, columns


def _short_sides(spec: PreprocessSpec, views: int) -> list[int]:
    size = spec.image_shape[0]
    if views == 10:
        return [math.floor(size / spec.crop_fraction)]
    scaled = [round(side * size / GOOGLENET_SIZE) for side in GOOGLENET_SHORT_SIDES]
    return scaled if views == 144 else scaled[:1]


def _covering_size(height: int, width: int, minimum: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size that covers `minimum`, rounded as in torchvision."""
    rows, columns = minimum
    if rows * width >= columns * height:
        return rows, rows * width // height
    return columns * height // width, columns


def _squares(height: int, width: int) -> list[Box]:
    """Return the largest squares at the start, centre and end of the longer side."""
    side = min(height, width)
    first, last = Box(0, 0, side, side), Box(height - side, width - side, side, side)
    return [first, _center(Box(0, 0, height, width), side, side), last]


def _corners_and_center(square: Box, size: int) -> list[Box]:
    margin = square.height - size
    corners = [
        Box(square.top + down, square.left + right, size, size)
        for down in (0, margin)
        for right in (0, margin)
    ]
    return [*corners, _center(square, size, size)]


def _center(box: Box, height: int, width: int) -> Box:
    # Python and torchvision both round halves to even.
    top = box.top + round((box.height - height) / 2)
    left = box.left + round((box.width - width) / 2)
    return Box(top, left, height, width)


@functools.cache
def _opencv() -> ModuleType:
    cv2 = require("cv2")
    # Images are already processed in threads; more threads would only compete.
    cv2.setNumThreads(0)
    return cv2
