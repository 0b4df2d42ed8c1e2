# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: thumbnails of images with their most likely class."""

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
PICTURE = (224, 168)  # 4:3, as most photos
MARGIN = 12
NAME_SIZE, TITLE_SIZE = 13, 16
LINE = 22  # height of a line of text
BAR = 10
CELL = (PICTURE[0] + 2 * MARGIN, PICTURE[1] + 3 * LINE + 2 * MARGIN)
COLUMNS, ROWS = 5, 8  # a page of 1240 x 2064 pixels is about A4 at 150 dpi

INK, GREY, TRACK, FILL = "#1a1a1a", "#5f5f5f", "#e4e4e4", "#2f6fb0"
ELLIPSIS = "\u2026"


def num_pages(images: int) -> int:
    """Return the number of pages for this many images."""
    return math.ceil(images / (COLUMNS * ROWS))


def contact_sheets(predictions: Sequence[Prediction]) -> Iterator["PIL.Image.Image"]:
    """Yield pages of `COLUMNS` x `ROWS` images; a page with fewer images is smaller.

    Below each image are the file's name, the most likely class, and its probability as a
    bar and in percent. Long texts are shortened; letters missing in the font are escaped.

    Raises UnreadableImage, or ImportError without the `data` extra.
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
        # Centred, with the lower edge above the text.
        x = left + (PICTURE[0] - picture.width) // 2
        page.paste(picture, (x, top + PICTURE[1] - picture.height))
        _caption(draw, left, top + PICTURE[1], prediction)
    return page


def _caption(
    draw: "PIL.ImageDraw.ImageDraw", left: int, top: int, prediction: Prediction
) -> None:
    best, width = prediction.guesses[0], PICTURE[0]
    small, large = _font(NAME_SIZE), _font(TITLE_SIZE)
    y = top + LINE / 2
    name = _fit_text(Path(prediction.path).name, small, width, keep_end=True)
    draw.text((left, y), name, GREY, small, anchor="lm")
    y += LINE
    title = _fit_text(best.title, large, width, keep_end=False)
    draw.text((left, y), title, INK, large, anchor="lm")
    y += LINE
    track = width - math.ceil(small.getlength("100.0%")) - MARGIN // 2
    for length, color in ((track, TRACK), (round(track * best.probability), FILL)):
        if length:  # `rectangle` includes its last pixel
            bar = (left, y - BAR / 2, left + length - 1, y + BAR / 2 - 1)
            draw.rectangle(bar, color)
    percent = f"{best.probability:.1%}"
    draw.text((left + width, y), percent, INK, small, anchor="rm")


def _thumbnail(path: str) -> "PIL.Image.Image":
    """Return an image scaled to fit `PICTURE`; tiny images are enlarged by an integer."""
    pillow = require("PIL.Image")
    image = pillow.fromarray(decode(Path(path).read_bytes(), path, 3))
    scale = min(PICTURE[0] / image.width, PICTURE[1] / image.height)
    if scale >= 2:
        size = (image.width * int(scale), image.height * int(scale))
        return image.resize(size, pillow.Resampling.NEAREST)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, pillow.Resampling.LANCZOS, reducing_gap=3.0)


def _fit_text(
    text: str, font: "PIL.ImageFont.FreeTypeFont", width: int, *, keep_end: bool
) -> str:
    """Return `text` in the font's letters, shortened to `width` pixels with an ellipsis.

    The ellipsis replaces the end or, with `keep_end`, the middle.
    """
    letters = [
        c if _has_glyph(font, c) else c.encode("unicode_escape").decode()
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
def _has_glyph(font: "PIL.ImageFont.FreeTypeFont", letter: str) -> bool:
    """Return whether the font has a glyph for a letter."""
    missing = "\ue000"  # for private use: no font has it
    return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask(missing))


@functools.cache
def _font(size: int) -> "PIL.ImageFont.FreeTypeFont":
    """Return Matplotlib's DejaVu Sans or, without it, Pillow's font with fewer letters."""
    fonts = require("PIL.ImageFont")
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folder = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
        if (folder / "DejaVuSans.ttf").is_file():
            return fonts.truetype(str(folder / "DejaVuSans.ttf"), size)
    return fonts.load_default(size)
