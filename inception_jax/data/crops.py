# SPDX-License-Identifier: Apache-2.0
"""What a network sees of an image in evaluation: 1, 10, 12 or 144 views and their pixels.

  1: the centre, as `PreprocessSpec` has it.
  10: AlexNet's (NeurIPS 2012, section 4.1), which ResNet uses: the shorter side becomes
    size / crop_fraction; of the central square, the four corners and the centre.
  12: named in Table 3 (arXiv 1602.07261) and defined nowhere. Our reading is 144 with the
    first of its scales and the central one of its squares.
  144: GoogLeNet's (arXiv 1409.4842, section 7): four scales; in each the left, central and
    right (top, central and bottom) square; of each square the four corners, the centre
    and, resized, the whole.
All but the first again as mirror images; they keep the aspect, whatever `spec.aspect`.

NumPy on the host. OpenCV and Pillow, of the `data` extra, are imported where they are used.
"""

import functools
import math
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from inception_jax.config import PreprocessSpec
from inception_jax.data.optional import require

# GoogLeNet's shorter sides, in pixels, for crops of 224x224. For another size they are
# scaled along and rounded, which the paper leaves open.
GOOGLENET_SHORT_SIDES = (256, 288, 320, 352)
GOOGLENET_SIZE = 224


class Box(NamedTuple):
    """A rectangle of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """What to do for one view: resize the image, cut, resize the cut, mirror it."""

    resized: tuple[int, int]  # height and width of the whole image before the cut
    box: Box  # in the resized image; stretched to the network's size if it has another
    flip: bool  # left and right


def list_views(height: int, width: int, spec: PreprocessSpec, views: int) -> list[View]:
    """The views of an image of height x width pixels; mirror images are the second half.

    Raises ValueError unless `views` is 1, 10, 12 or 144, and if the input is not square
    where they are more than one.
    """
    if views == 1:
        return [_central_view(height, width, spec)]
    size, other = spec.image_shape[:2]
    if views not in (10, 12, 144):
        raise ValueError(f"views must be 1, 10, 12 or 144, got {views}.")
    if size != other:
        raise ValueError(
            f"{views} views are defined for square inputs, got image_shape "
            f"{spec.image_shape}; take 1 view."
        )
    plain = []
    for short in _short_sides(spec, views):
        resized = _covering(height, width, (short, short))
        squares = _squares(*resized)
        for square in squares if views == 144 else squares[1:2]:
            boxes = _corners_and_center(square, size)
            boxes += [square] if views != 10 else []
            plain += [View(resized, box, False) for box in boxes]
    return plain + [view._replace(flip=True) for view in plain]


def eval_views(
    image: UInt8[np.ndarray, "h w c"], spec: PreprocessSpec, views: int
) -> UInt8[np.ndarray, "views height width c"]:
    """The pixels of `list_views`, each of `spec.image_shape`.

    Raises what `list_views` and `resize` raise.
    """
    planned = list_views(*image.shape[:2], spec, views)
    sizes = {view.resized for view in planned}
    whole = {size: resize(image, size, spec.resize) for size in sizes}
    out = np.empty((views, *spec.image_shape), np.uint8)
    for pixels, view in zip(out, planned, strict=True):
        part = crop(whole[view.resized], view.box)
        part = resize(part, spec.image_shape[:2], spec.resize)
        pixels[...] = mirror(part) if view.flip else part
    return out


def describe_preprocessing(spec: PreprocessSpec) -> str:
    """The one view of `list_views`, for whoever has to do the same without this code."""
    height, width, channels = spec.image_shape
    colour = "RGB" if channels == 3 else "grey"
    if spec.aspect == "stretch":
        cut = f"the central {spec.crop_fraction:g} of both sides stretched to"
    else:
        rows, columns = _to_cover(spec)
        cut = f"resized in its aspect to just cover {rows}x{columns}, of that the central"
    step = (spec.high - spec.low) / 255
    sign = "-" if spec.low < 0 else "+"
    return (
        f"{colour}, {cut} {height}x{width}, {spec.resize}; a pixel p from 0 to 255 is "
        f"p * {step:.8g} {sign} {abs(spec.low):.8g}"
    )


def central_box(height: int, width: int, fraction: float) -> Box:
    """The central `fraction` of both sides, by the arithmetic of tf.image.central_crop."""
    top, left = (int((side - side * fraction) / 2) for side in (height, width))
    return Box(top, left, height - 2 * top, width - 2 * left)


def crop(image: UInt8[np.ndarray, "h w c"], box: Box) -> UInt8[np.ndarray, "h2 w2 c"]:
    """The part of the image inside the box, without copying it."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def mirror(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """The image with left and right exchanged. Raises ImportError without OpenCV."""
    # A copy of image[:, ::-1] takes 30 times as long.
    return _opencv().flip(image, 1).reshape(image.shape)


def resize(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    kernel: Literal["bilinear", "bicubic"],
) -> UInt8[np.ndarray, "height width c"]:
    """The whole image at another height and width, stretched if the aspect differs.

    "bilinear" is `tf.image.resize`, which does not smooth: pixel centres at half integers.
    (The `resize_bilinear` of slim's days put them at integers, which shifts the picture by
    up to half a pixel.) A side that is more than twice the target is first averaged down
    by a whole factor, about, so that large photos do not alias. "bicubic" is Pillow's, as
    in timm, which smooths as far as it reduces. An image of that size comes back itself.

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
    over_h, over_w = math.ceil(h / (2 * height)), math.ceil(w / (2 * width))
    if max(over_h, over_w) > 1:
        smaller = (round(w / over_w), round(h / over_h))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.reshape(height, width, -1)


def _central_view(height: int, width: int, spec: PreprocessSpec) -> View:
    if spec.aspect == "stretch":
        box = central_box(height, width, spec.crop_fraction)
        return View((height, width), box, False)
    rows, columns = spec.image_shape[:2]
    resized = _covering(height, width, _to_cover(spec))
    return View(resized, _center(Box(0, 0, *resized), rows, columns), False)


def _to_cover(spec: PreprocessSpec) -> tuple[int, int]:
    # timm 1.0.31 for square inputs: floor(size / crop_fraction), then torchvision's Resize
    # and CenterCrop.
    rows, columns = (math.floor(x / spec.crop_fraction) for x in spec.image_shape[:2])
    return rows, columns


def _short_sides(spec: PreprocessSpec, views: int) -> list[int]:
    size = spec.image_shape[0]
    if views == 10:
        return [math.floor(size / spec.crop_fraction)]
    scaled = [round(side * size / GOOGLENET_SIZE) for side in GOOGLENET_SHORT_SIDES]
    return scaled if views == 144 else scaled[:1]


def _covering(height: int, width: int, least: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of that aspect with at least these sides, as torchvision rounds."""
    rows, columns = least
    if rows * width >= columns * height:
        return rows, rows * width // height
    return columns * height // width, columns


def _squares(height: int, width: int) -> list[Box]:
    """The first, the central and the last of the largest squares along the longer side."""
    side = min(height, width)
    first, last = Box(0, 0, side, side), Box(height - side, width - side, side, side)
    return [first, _center(Box(0, 0, height, width), side, side), last]


def _corners_and_center(square: Box, size: int) -> list[Box]:
    room = square.height - size
    corners = [
        Box(square.top + down, square.left + right, size, size)
        for down in (0, room)
        for right in (0, room)
    ]
    return [*corners, _center(square, size, size)]


def _center(box: Box, height: int, width: int) -> Box:
    # Python's and torchvision's rounding of halves: to the even number.
    top = box.top + round((box.height - height) / 2)
    left = box.left + round((box.width - width) / 2)
    return Box(top, left, height, width)


@functools.cache
def _opencv() -> ModuleType:
    cv2 = require("cv2")
    # Images are spread over workers already; threads of its own would only get in the way.
    cv2.setNumThreads(0)
    return cv2
