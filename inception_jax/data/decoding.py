# SPDX-License-Identifier: Apache-2.0
"""Decoding of image files to the pixels that a person sees.

The format is recognised from the content, not from the file name. Only the first frame of
an animation is decoded. The EXIF orientation is applied; tf.image.decode_jpeg, and hence
slim, ignores it. Transparent pixels are drawn on white, 16-bit pixels are scaled to 8 bits,
and colour profiles are ignored.
"""

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from inception_jax.data.optional import require
from inception_jax.data.source import Example

if TYPE_CHECKING:
    import PIL.Image

# Pillow's own limit. An image of this size takes half a gigabyte when decoded.
MAX_PIXELS = 178_956_970

_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
# An entry of `warnings.filters`.
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_ORIENTATION = 0x0112  # EXIF tag


class UnreadableImage(ValueError):
    """Raised for an image file that cannot be read; the message names file and problem."""


def decode(data: bytes, name: str, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of an image file: RGB for channels=3, luma (ITU-R 601) for 1.

    `name` denotes the file in error messages. Raises UnreadableImage if the file is empty,
    truncated or corrupt, is not an image, has pixels of undefined range (32 bits) or more
    than MAX_PIXELS pixels. Raises ImportError without the `data` extra.
    """
    if not data:
        raise UnreadableImage(f"{name!r} cannot be read: the file is empty.")
    _silence_pillow()
    if data.startswith(_JPEG):
        pixels = _decode_common_jpeg(data, channels)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(data, name, channels)


def decode_example(example: Example, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of an example; raises UnreadableImage as `decode` does."""
    if isinstance(example["image"], bytes):
        return decode(example["image"], example["name"], channels)
    return convert_channels(example["image"], channels)


def _silence_pillow() -> None:
    """Permanently ignore Pillow's warnings about files that it can read.

    They would repeat in every epoch. `catch_warnings` is not an option: it replaces the
    filters of all threads. The filter is added only once, because every addition makes
    Python repeat the warnings of other modules, too.
    """
    if warnings.filters[:1] != [_IGNORE_PILLOW]:
        warnings.filterwarnings("ignore", module=_IGNORE_PILLOW[3].pattern)


def convert_channels(
    image: UInt8[np.ndarray, "h w c"], channels: int
) -> UInt8[np.ndarray, "h w c2"]:
    """Return pixels with 1 or 3 channels: grey is repeated, colour becomes its luma."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    luma = image @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    return np.rint(luma).astype(np.uint8)[..., None]


def _decode_common_jpeg(data: bytes, channels: int) -> UInt8[np.ndarray, "h w c"] | None:
    """Return the pixels of a valid JPEG file in a common colour space, otherwise None."""
    simplejpeg = require("simplejpeg")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY")
    except ValueError:
        return None
    if _EXIF not in data[:65536]:
        return pixels
    with require("PIL.Image").open(io.BytesIO(data)) as image:
        return np.ascontiguousarray(_upright(pixels, _orientation(image)))


def _decode_with_pillow(
    data: bytes, name: str, channels: int
) -> UInt8[np.ndarray, "h w c"]:
    pillow = require("PIL.Image")
    try:
        with pillow.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise pillow.DecompressionBombError
            return _pixels(image, channels)
    except MemoryError:
        raise
    except pillow.DecompressionBombError:
        problem = f"it has more than {MAX_PIXELS:,} pixels"
    except pillow.UnidentifiedImageError:
        problem = f"it starts with {data[:8]!r}, which no supported image format does"
    # Pillow's parsers raise exceptions of many types for corrupt files.
    except Exception as e:
        problem = " ".join(str(e).rstrip(".").split()) or type(e).__name__
    raise UnreadableImage(f"{name!r} cannot be read: {problem}.")


def _pixels(image: "PIL.Image.Image", channels: int) -> UInt8[np.ndarray, "h w c"]:
    pillow = require("PIL.Image")
    image.load()
    orientation = _orientation(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Only Adobe stores inverted CMYK, but Pillow inverts every file.
        image = require("PIL.ImageChops").invert(image)
    if image.mode.startswith("I"):
        image = pillow.fromarray(_eight_bits(image))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image)
    # Via RGB, because modes such as CMYK cannot be converted to grey directly.
    if channels == 3 or image.mode not in ("1", "L"):
        image = image.convert("RGB")
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    return np.array(_upright(pixels, orientation), order="C")


def _orientation(image: "PIL.Image.Image") -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    # Only the EXIF block is corrupt; the image is still usable.
    except Exception:
        return 1


def _eight_bits(image: "PIL.Image.Image") -> UInt8[np.ndarray, "h w"]:
    """Scale 16-bit grey levels to 8 bits."""
    # Of the files that Pillow opens in the 32-bit mode "I", only these have 16 bits.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("its pixels are 32-bit integers of no defined range")
    return np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8)


def _upright(
    pixels: UInt8[np.ndarray, "h w c"], orientation: int
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Return the image rotated and mirrored as the EXIF orientation (1 to 8) requires."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
