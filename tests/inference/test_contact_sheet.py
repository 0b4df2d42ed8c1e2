# SPDX-License-Identifier: Apache-2.0
"""Contact sheets have the right size and show the predictions."""

import numpy as np
import PIL.Image
import PIL.ImageColor
import pytest

from inception_jax.inference import contact_sheet
from inception_jax.inference.contact_sheet import CELL, FILL, contact_sheets, num_pages
from inception_jax.inference.predict import Guess, Prediction

WIDTH, HEIGHT = CELL


def image(path, size=(40, 30), color="red", mode="RGB") -> str:
    PIL.Image.new(mode, size, color).save(path)
    return str(path)


def sheet(*predictions: tuple[str, str, float]) -> np.ndarray:
    """Return the page for images, each with a class and a probability."""
    (page,) = contact_sheets([Prediction(p, (Guess(c, x),)) for p, c, x in predictions])
    return np.asarray(page).astype(int)


def of_color(pixels: np.ndarray, color: str) -> np.ndarray:
    return (pixels == PIL.ImageColor.getrgb(color)).all(axis=-1)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [(1, 1)]),
        (5, [(5, 1)]),
        (7, [(5, 2)]),
        (40, [(5, 8)]),
        (42, [(5, 8), (2, 1)]),
    ],
)
def test_pages_fit_all_images(tmp_path, count, sizes):
    path = image(tmp_path / "a.png")
    pages = list(contact_sheets([Prediction(path, (Guess("a", 0.5),))] * count))
    assert [page.size for page in pages] == [(WIDTH * x, HEIGHT * y) for x, y in sizes]
    assert num_pages(count) == len(pages)
    cells = sum(
        not (np.asarray(page.crop((x, y, x + WIDTH, y + HEIGHT))) == 255).all()
        for page in pages
        for x in range(0, page.width, WIDTH)
        for y in range(0, page.height, HEIGHT)
    )
    assert cells == count


def test_bar_length_is_proportional_to_probability(tmp_path):
    path = image(tmp_path / "a.png")
    lengths = []
    for probability in (0.0, 0.25, 0.5, 1.0):
        filled = of_color(sheet((path, "a", probability)), FILL)
        lengths.append(filled.any(axis=0).sum())
    assert lengths[3] > WIDTH / 2
    np.testing.assert_allclose(lengths, np.array([0, 0.25, 0.5, 1]) * lengths[3], atol=0.5)


def test_name_class_and_percent_are_drawn(tmp_path):
    paths = [image(tmp_path / name) for name in ("a.png", "b.png")]
    first = sheet((paths[0], "tench", 0.5))
    for other in ((paths[1], "tench", 0.5), (paths[0], "trench", 0.5)):
        changed = (sheet(other) != first).any(axis=(1, 2)).nonzero()[0]
        assert len(changed) > 0
        assert changed.max() - changed.min() < contact_sheet.LINE  # in a line of its own
    # The title, not the class id, in the right cell.
    two = sheet((paths[0], "n02099601", 0.5), (paths[1], "tench", 0.5))
    retriever = sheet((paths[0], "golden retriever", 0.5))
    np.testing.assert_array_equal(two[:, :WIDTH], retriever)
    np.testing.assert_array_equal(two[:, WIDTH:], sheet((paths[1], "tench", 0.5)))


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (100, 3), (3, 100), (900, 20), (2000, 900)]
)
def test_pictures_keep_their_shape_and_place(tmp_path, size):
    page = sheet((image(tmp_path / "a.png", size, "red"), "a", 0.5))
    rows, columns = of_color(page, "red").nonzero()
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width <= 224
    assert height <= 168
    assert max(width / 224, height / 168) > 0.65
    assert abs(width / height / (size[0] / size[1]) - 1) < 0.1
    assert len(rows) == width * height
    assert (page[:, :12] == 255).all()
    assert (page[:, -12:] == 255).all()


def test_pixels_of_small_grey_images_stay_squares(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    page = sheet((str(tmp_path / "a.png"), "a", 0.5))
    top, left, side = 12, 12 + (224 - 168) // 2, 168 // 8
    squares = np.kron(pixels, np.ones((side, side)))
    shown = page[top : top + 168, left : left + 168]
    np.testing.assert_array_equal(shown, np.repeat(squares[..., None], 3, axis=2))


def test_the_thinnest_picture_is_a_line(tmp_path):
    page = sheet((image(tmp_path / "a.png", (3000, 2), "red"), "a", 0.5))
    assert of_color(page, "red").sum() == 224


@pytest.mark.parametrize("own_font", [True, False])
def test_long_texts_and_missing_glyphs(tmp_path, monkeypatch, own_font):
    if own_font:
        monkeypatch.setattr(contact_sheet.importlib.util, "find_spec", lambda _: None)
    contact_sheet._font.cache_clear()
    font = contact_sheet._font(13)
    assert font.getname()[0] == ("Aileron" if own_font else "DejaVu Sans")

    def fitting(text: str, keep_end: bool = False) -> str:
        return contact_sheet._fit_text(text, font, 224, keep_end=keep_end)

    assert fitting("short name.png") == "short name.png"
    long = "".join(f"word{i} " for i in range(30))
    assert font.getlength(fitting(long)) <= 224 < font.getlength(long)
    assert long.startswith(fitting(long).removesuffix("\u2026"))
    begin, end = fitting(long + ".png", keep_end=True).split("\u2026")
    assert long.startswith(begin)
    assert end.endswith(".png")
    assert min(len(begin), len(end)) > 8
    # e with a combining accent, as in file names of macOS.
    assert fitting("cafe\u0301") == ("caf\\xe9" if own_font else "caf\xe9")
    assert fitting("\u732b.png") == "\\u732b.png"
    assert fitting("a\nb\x1b\udcff") == "a\\nb\\x1b\\udcff"
    name = "x\u732b" * 60
    page = sheet((image(tmp_path / f"{name}.png"), name, 1.0))
    assert (page[:, -12:] == 255).all()
    contact_sheet._font.cache_clear()
