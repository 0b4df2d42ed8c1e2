# SPDX-License-Identifier: Apache-2.0
"""Predictions as a picture: a thumbnail of each image, its likeliest class, a bar."""

import functools
import importlib.util
import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inception_jax.data.decoding import decode
from inception_jax.data.optional import require
from inception_jax.inference.predict import Prediction
from inception_jax.text import one_line

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

# In pixels.
PICTURE = (224, 168)  # 4:3, as most cameras have it
MARGIN = 12
NAME_SIZE, TITLE_SIZE = 13, 16
LINE = 22  # from one line of text to the next
BAR = 10
CELL = (PICTURE[0] + 2 * MARGIN, PICTURE[1] + 3 * LINE + 2 * MARGIN)
COLUMNS, ROWS = 5, 8  # of a page: 1240 x 2064 pixels, about A4 at 150 per inch

INK, GREY, TRACK, FILL = "#1a1a1a", "#5f5f5f", "#e4e4e4", "#2f6fb0"
ELLIPSIS = "\u2026"


def num_pages(images: int) -> int:
    """Pages that so many predictions take."""
    return math.ceil(images / (COLUMNS * ROWS))


def contact_sheets(predictions: Sequence[Prediction]) -> Iterator["PIL.Image.Image"]:
    """Pages of `COLUMNS` x `ROWS` images, made one by one; a short one is cut off.

    Each image, read anew, has below it the file's name, the likeliest class, and its
    probability as a bar and in percent. What is too long is cut; letters that the font
    lacks are shown as escapes.

    Raises UnreadableImage, ImportError without the `data` extra.
    """
    per_page = COLUMNS * ROWS
    for first in range(0, len(predictions), per_page):
        yield _page(predictions[first : first + per_page])


def _page(predictions: Sequence[Prediction]) -> "PIL.Image.Image":
    pillow = require("PIL.Image")
    columns = min(COLUMNS, len(predictions))
    rows = math.ceil(len(predictions) / columns)
    page = pillow.new("RGB", (columns * CELL[0], rows * CELL[1]), "white")
    draw = require("PIL.ImageDraw").Draw(page)
    for i, prediction in enumerate(predictions):
        row, column = divmod(i, columns)
        left, top = column * CELL[0] + MARGIN, row * CELL[1] + MARGIN
        picture = _thumbnail(prediction.path)
        # In the middle, standing on the text below.
        x = left + (PICTURE[0] - picture.width) // 2
        page.paste(picture, (x, top + PICTURE[1] - picture.height))
        _caption(draw, left, top + PICTURE[1], prediction)
    return page


def _caption(
    draw: "PIL.ImageDraw.ImageDraw", left: int, top: int, prediction: Prediction
) -> None:
    best, width = prediction.guesses[0], PICTURE[0]
    small, large = _font(NAME_SIZE), _font(TITLE_SIZE)
    middle = {"anchor": "lm"}  # left, middle of the line
    line = top + LINE / 2
    name = _fitting(Path(prediction.path).name, small, width, keep_end=True)
    draw.text((left, line), name, GREY, small, **middle)
    title = _fitting(best.title, large, width, keep_end=False)
    draw.text((left, line + LINE), title, INK, large, **middle)
    track = width - math.ceil(small.getlength("100.0%")) - MARGIN // 2
    y = line + 2 * LINE
    for length, color in ((track, TRACK), (round(track * best.probability), FILL)):
        if length:  # the last pixel is drawn too
            box = (left, y - BAR / 2, left + length - 1, y + BAR / 2 - 1)
            draw.rectangle(box, color)
    percent = f"{best.probability:.1%}"
    draw.text((left + width, y), percent, INK, small, anchor="rm")


def _thumbnail(path: str) -> "PIL.Image.Image":
    """The image, as large as fits into `PICTURE`; pixels of tiny ones become squares."""
    pillow = require("PIL.Image")
    image = pillow.fromarray(decode(Path(path).read_bytes(), path, 3))
    scale = min(PICTURE[0] / image.width, PICTURE[1] / image.height)
    if scale >= 2:
        size = (image.width * int(scale), image.height * int(scale))
        return image.resize(size, pillow.Resampling.NEAREST)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, pillow.Resampling.LANCZOS, reducing_gap=3.0)


def _fitting(
    text: str, font: "PIL.ImageFont.FreeTypeFont", width: int, *, keep_end: bool
) -> str:
    """`text` in what the font has, cut to `width` pixels; at its end, or in the middle."""
    letters = [
        c if _has(font, c) else c.encode("unicode_escape").decode()
        for c in unicodedata.normalize("NFC", one_line(text))
    ]
    shown = "".join(letters)
    for kept in range(len(letters) - 1, -1, -1):
        if font.getlength(shown) <= width:
            break
        last = kept // 2 if keep_end else 0
        end = "".join(letters[len(letters) - last :])
        shown = "".join(letters[: kept - last]) + ELLIPSIS + end
    return shown


@functools.cache
def _has(font: "PIL.ImageFont.FreeTypeFont", letter: str) -> bool:
    """Whether the font has a letter, and not just the box that stands for any it lacks."""
    missing = "\ue000"  # of a private area: no font has it
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask(missing))


@functools.cache
def _font(size: int) -> "PIL.ImageFont.FreeTypeFont":
    """DejaVu Sans, which comes with Matplotlib, or Pillow's own, which is hardly more than
    ASCII."""
    fonts = require("PIL.ImageFont")
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folder = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
        if (folder / "DejaVuSans.ttf").is_file():
            return fonts.truetype(str(folder / "DejaVuSans.ttf"), size)
    return fonts.load_default(size)
