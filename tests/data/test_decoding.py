# SPDX-License-Identifier: Apache-2.0
"""Valid images of many formats are decoded; errors name the file and the problem."""

import io
import random
import re
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from inception_jax.data.decoding import (
    MAX_PIXELS,
    UnreadableImage,
    convert_channels,
    decode,
)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Return an image: red grows downwards, green to the right; the left half is bluer."""
    y, x = np.mgrid[:height, :width]
    blue = np.where(x < width / 2, 200, 40)
    colors = [y * 255 // max(1, height - 1), x * 255 // max(1, width - 1), blue]
    return np.stack(colors, axis=-1).astype(np.uint8)


def saved(image: PIL.Image.Image | np.ndarray, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


JPEG = saved(picture(), "JPEG", quality=95)
PNG = saved(picture(), "PNG")


def assert_close(actual: np.ndarray, expected: np.ndarray, *, mean: float = 3) -> None:
    assert actual.dtype == np.uint8
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).mean() < mean


# Valid images


@pytest.mark.parametrize(
    ("kind", "options", "mean"),
    [
        ("PNG", {}, 0.01),
        ("BMP", {}, 0.01),
        ("PPM", {}, 0.01),
        ("TIFF", {}, 0.01),
        ("WEBP", {"lossless": True}, 0.01),
        ("WEBP", {"quality": 95}, 4),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("JPEG", {"quality": 95, "subsampling": "4:4:4", "optimize": True}, 4),
        ("GIF", {}, 20),
    ],
)
def test_formats_are_read_by_content(kind, options, mean):
    for name in ("a.JPEG", "a.png", "no ending"):
        assert_close(
            decode(saved(picture(), kind, **options), name, 3), picture(), mean=mean
        )


def test_fast_path_and_pillow_agree(monkeypatch):
    fast = [decode(JPEG, "a", channels) for channels in (3, 1)]
    monkeypatch.setattr("inception_jax.data.decoding._JPEG", b"no such start")
    slow = [decode(JPEG, "a", channels) for channels in (3, 1)]
    np.testing.assert_array_equal(fast[0], slow[0])
    # One is the stored luma, the other is computed from clipped RGB.
    assert np.abs(fast[1].astype(int) - slow[1]).max() <= 16
    assert_close(fast[1], slow[1], mean=1)


def test_one_channel_is_luma():
    luma = picture() @ np.array([0.299, 0.587, 0.114])
    assert_close(decode(JPEG, "a", 1), luma[..., None], mean=2)
    assert_close(decode(PNG, "a", 1), luma[..., None], mean=1)
    assert_close(convert_channels(picture(), 1), luma[..., None], mean=0.6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_is_repeated(kind):
    grey = picture()[..., 1]
    data = saved(grey, kind)
    np.testing.assert_array_equal(
        decode(data, "a", 3), np.repeat(decode(data, "a", 1), 3, axis=2)
    )
    assert_close(decode(data, "a", 1)[..., 0], grey)
    np.testing.assert_array_equal(convert_channels(grey[..., None], 3)[..., 2], grey)
    assert convert_channels(grey[..., None], 1).shape == (40, 60, 1)


def without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"
    (length,) = struct.unpack(">H", data[start + 2 : start + 4])
    return data[:start] + data[start + 2 + length :]


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_with_and_without_inversion_by_adobe(channels):
    inks = np.concatenate([255 - picture(), np.zeros((40, 60, 1), np.uint8)], axis=2)
    expected = convert_channels(picture(), channels)
    # Pillow writes inverted inks with Adobe's marker.
    adobe = saved(PIL.Image.fromarray(inks, "CMYK"), "JPEG", quality=95)
    assert_close(decode(adobe, "a", channels), expected)
    # Without the marker, inks are not inverted.
    plain = without_adobe(
        saved(PIL.Image.fromarray(255 - inks, "CMYK"), "JPEG", quality=95)
    )
    assert_close(decode(plain, "a", channels), expected)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled(kind, channels):
    levels = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    pixels = decode(saved(levels, kind), "a", channels)
    expected = np.rint(levels / 257)[..., None].repeat(channels, axis=2)
    np.testing.assert_array_equal(pixels, expected)


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_sixteen_bits_of_color_are_scaled():
    row = struct.pack(">6H", 0, 257 * 7, 65535, 257 * 255, 257 * 128, 257 * 3)
    pixels = decode(png(2, 1, 16, 2, b"\0" + row), "a", 3)
    assert pixels.tolist() == [[[0, 7, 255], [255, 128, 3]]]


def test_transparency_shows_white():
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:20], alpha[20:30] = 255, 128
    image = PIL.Image.fromarray(np.dstack([picture(), alpha]), "RGBA")
    fraction = alpha[..., None] / 255
    expected = picture() * fraction + 255 * (1 - fraction)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert_close(decode(saved(image, kind, **options), "a", 3), expected, mean=1)
    grey = PIL.Image.fromarray(np.dstack([picture()[..., 0], alpha]), "LA")
    assert_close(decode(saved(grey, "PNG"), "a", 1), expected[..., :1], mean=1)


def test_palettes_with_and_without_transparency():
    image = PIL.Image.fromarray(picture()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert_close(decode(saved(image, kind), "a", 3), expected, mean=0.1)
    index = np.asarray(image)
    clear = np.where((index == index[0, 0])[..., None], 255, expected)
    assert clear.tolist() != expected.tolist()
    one = int(index[0, 0])
    several = bytes(0 if i == one else 255 for i in range(16))
    for kind, transparency in (("PNG", one), ("PNG", several), ("GIF", one)):
        data = saved(image, kind, transparency=transparency)
        assert_close(decode(data, "a", 3), clear, mean=0.1)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_single_transparent_color(mode):
    image = PIL.Image.new(mode, (4, 4), 0)
    transparency = (0, 0, 0) if mode == "RGB" else 0
    data = saved(image, "PNG", transparency=transparency)
    assert (decode(data, "a", 3) == 255).all()
    assert (decode(saved(image, "PNG"), "a", 3) == 0).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame(kind):
    frames = [PIL.Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert PIL.Image.open(io.BytesIO(data)).n_frames == 3
    assert_close(decode(data, "a", 3), np.asarray(frames[0]), mean=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), kind, exif=exif)
    expected = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.fliplr(np.rot90(a, -1)),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.fliplr(np.rot90(a)),
        8: np.rot90,
    }[orientation](picture())
    assert_close(decode(data, "a", 3), expected, mean=8)
    assert decode(data, "a", 3).flags.c_contiguous


def test_corrupt_exif_is_ignored():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "WEBP"):
        data = saved(picture(), kind, exif=exif)
        start = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
        broken = data[: start + 4] + b"\xff" * 4 + data[start + 8 :]
        assert decode(broken, "a", 3).shape == (40, 60, 3)


def test_jpeg_with_extraneous_bytes_is_read():
    # Files of ImageNet have "extraneous bytes before marker", but complete pixels.
    more = JPEG[:-2] + b"\0\0\0\0" + JPEG[-2:] + b"and more"
    np.testing.assert_array_equal(decode(more, "a", 3), decode(JPEG, "a", 3))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (9000, 1)])
def test_extreme_shapes(height, width):
    for kind in ("JPEG", "PNG"):
        assert decode(saved(picture(height, width), kind), "a", 3).shape == (
            height,
            width,
            3,
        )


def test_pixels_are_writable():
    for data in (JPEG, PNG):
        assert decode(data, "a", 3).flags.writeable


def test_pillow_s_warnings_are_ignored():
    levels = [PIL.Image.new("P", (2, 2))]
    levels[0].putpalette([0, 0, 0, 9, 9, 9])
    data = saved(levels[0], "PNG", transparency=b"\0\xff")
    # Pillow warns of a decompression bomb.
    large = saved(PIL.Image.new("1", (9600, 9600)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(data, "a", 1)
        assert decode(large, "a", 1).shape == (9600, 9600, 1)
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


def test_other_warnings_do_not_repeat():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            decode(PNG, "a", 1)
            warnings.warn("shown once for each line of code", stacklevel=1)
    assert len(shown) == 1


# Invalid files


def error_of(data: bytes, name: str = "n01/x.JPEG") -> str:
    with pytest.raises(UnreadableImage) as e:
        decode(data, name, 3)
    message = str(e.value)
    assert message.startswith(f"{name!r} cannot be read: ")
    assert message.endswith(".")
    assert "\n" not in message
    assert "BytesIO" not in message
    return message


def test_empty_file():
    assert error_of(b"") == "'n01/x.JPEG' cannot be read: the file is empty."


@pytest.mark.parametrize(
    "data",
    [b"hello", b"\0" * 1000, b"\xff\xd8\xff", b"GIF89a", b"<html>404</html>", b"\x89PNG"],
)
def test_garbage(data):
    message = error_of(data)
    assert repr(data[:8])[2:6] in message or "truncated" in message


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_truncated(kind, fraction):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    data = saved(noise, kind)
    assert len(error_of(data[: int(fraction * len(data))])) > len(
        "'n01/x.JPEG' cannot be read: ."
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_too_many_pixels(kind):
    side = 13_400
    assert side * side > MAX_PIXELS
    data = saved(
        PIL.Image.new("1" if kind == "PNG" else "L", (side, side)), kind, quality=5
    )
    assert f"more than {MAX_PIXELS:,} pixels" in error_of(data)


def test_far_too_many_pixels():
    assert f"more than {MAX_PIXELS:,} pixels" in error_of(
        png(99_999, 99_999, 1, 0, b"\0" * 99)
    )


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "float"), (np.int32, "integer")])
def test_pixels_without_a_range(dtype, kind):
    assert kind in error_of(saved(np.zeros((4, 4), dtype), "TIFF"))


def test_names_are_quoted():
    # Control characters in a file name must not reach the terminal.
    assert repr("a\n\udcff.jpg") in error_of(b"", "a\n\udcff.jpg")


def test_missing_package_says_what_to_install(monkeypatch):
    for module, data in (("simplejpeg", JPEG), ("PIL.Image", PNG)):
        monkeypatch.setitem(sys.modules, module, None)
        message = rf'{module} is missing: pip install "inception_jax\[data\]"'
        with pytest.raises(ImportError, match=message):
            decode(data, "a", 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_damaged_files_give_pixels_or_the_error(kind):
    chance = random.Random(kind)
    exif = PIL.Image.Exif()
    exif[0x0112] = 5
    options = {} if kind in ("GIF", "BMP", "PPM") else {"exif": exif}
    whole = saved(picture(12, 10), kind, **options)
    messages, read = [], 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        channels = chance.choice([1, 3])
        try:
            pixels = decode(bytes(data), "a", channels)
        except UnreadableImage as e:
            messages.append(str(e))
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == channels
            read += 1
    assert read
    assert messages
    for message in messages:
        assert re.fullmatch("'a' cannot be read: .*[.]", message), message


def test_threads_decode_at_once():
    broken = PNG[:100]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(decode, d, "a", 3) for d in [JPEG, PNG, broken] * 20]
    for i, future in enumerate(futures):
        if i % 3 == 2:
            assert isinstance(future.exception(), UnreadableImage)
        else:
            assert_close(future.result(), picture(), mean=4)
