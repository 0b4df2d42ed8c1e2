# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an image file to pixels, as a person sees them.

What the file's content says counts, not its ending. Of an animation it is the first
frame; EXIF's orientation is applied (tf.image.decode_jpeg, hence slim's input, ignores
it); transparency shows white, as on a page; 16 bits are scaled to 8; colour profiles are
ignored.
"""

import io
import re
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from inception_jax.data.optional import require
from inception_jax.data.source import Example

if TYPE_CHECKING:
    import PIL.Image

# Where Pillow, too, refuses: decoded, an image of that size takes half a gigabyte.
MAX_PIXELS = 178_956_970

_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
# As `warnings.filters` has it.
_SILENCE = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_ORIENTATION = 0x0112  # EXIF's number for the orientation


class UnreadableImage(ValueError):
    """An image file that cannot be read; the message names it and says what is wrong."""


def decode(data: bytes, name: str, channels: Literal[1, 3]) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an image file in RGB, or with channels=1 their luma (ITU-R 601).

    `name` is what errors call the file. Raises UnreadableImage on an empty, truncated or
    broken file, on one that is no image, on pixels whose range nobody defines (32 bits),
    and on more than MAX_PIXELS; ImportError without the `data` extra.
    """
    if not data:
        raise UnreadableImage(f"{name!r} cannot be read: the file is empty.")
    _silence_pillow()
    if data.startswith(_JPEG):
        pixels = _decode_usual_jpeg(data, channels)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(data, name, channels)


def decode_example(example: Example, channels: Literal[1, 3]) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an example, decoded if they are not yet; raises as `decode` does."""
    if isinstance(example["image"], bytes):
        return decode(example["image"], example["name"], channels)
    return convert_channels(example["image"], channels)


def _silence_pillow() -> None:
    """Ignore, from now on, what Pillow remarks on files that it can read.

    It would repeat with every epoch. This is not undone afterwards, because catch_warnings
    swaps the filters of all threads; and done once, because it makes others' repeat too.
    """
    if warnings.filters[:1] != [_SILENCE]:
        warnings.filterwarnings("ignore", module=_SILENCE[3].pattern)


def convert_channels(
    image: UInt8[np.ndarray, "h w c"], channels: Literal[1, 3]
) -> UInt8[np.ndarray, "h w c2"]:
    """Decoded pixels with so many channels: grey is repeated, colour becomes its luma."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    luma = image @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    return np.rint(luma).astype(np.uint8)[..., None]


def _decode_usual_jpeg(
    data: bytes, channels: Literal[1, 3]
) -> UInt8[np.ndarray, "h w c"] | None:
    """Pixels of a faultless JPEG in a usual colour space; None for every other one."""
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
    data: bytes, name: str, channels: Literal[1, 3]
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
        fault = f"it has more than {MAX_PIXELS:,} pixels"
    except pillow.UnidentifiedImageError:
        fault = f"it starts with {data[:8]!r}, which no known image format does"
    # Of a broken file Pillow's parsers may raise about anything.
    except Exception as e:
        fault = " ".join(str(e).rstrip(".").split()) or type(e).__name__
    raise UnreadableImage(f"{name!r} cannot be read: {fault}.")


def _pixels(
    image: "PIL.Image.Image", channels: Literal[1, 3]
) -> UInt8[np.ndarray, "h w c"]:
    pillow = require("PIL.Image")
    image.load()
    orientation = _orientation(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Only Adobe stores inks inverted, but Pillow takes every file for Adobe's.
        image = require("PIL.ImageChops").invert(image)
    if image.mode.startswith("I"):
        image = pillow.fromarray(_eight_bits(image))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image)
    # By way of RGB: modes such as CMYK have no conversion to grey of their own.
    if channels == 3 or image.mode not in ("1", "L"):
        image = image.convert("RGB")
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    return np.array(_upright(pixels, orientation), order="C")


def _orientation(image: "PIL.Image.Image") -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    # The picture is fine, its EXIF block is not.
    except Exception:
        return 1


def _eight_bits(image: "PIL.Image.Image") -> UInt8[np.ndarray, "h w"]:
    """16 bits of grey scaled to 8."""
    # As "I", of 32 bits, Pillow gives 16 bits of these formats only.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("its pixels are 32-bit integers of no defined range")
    return np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8)


def _upright(
    pixels: UInt8[np.ndarray, "h w c"], orientation: int
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """The image turned and mirrored as EXIF's orientation, 1 to 8, asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
