# SPDX-License-Identifier: Apache-2.0
"""Evaluation views have the boxes of the literature and the right pixels."""

import re

import numpy as np
import pytest

from inception_jax.config import PreprocessSpec
from inception_jax.data.crops import (
    Box,
    View,
    describe_preprocessing,
    eval_views,
    list_views,
    resize,
)
from tests.goldens.regenerate_preprocessing import picture

SQUARE = PreprocessSpec()
SIZES = [(375, 500), (500, 375), (333, 333), (31, 2000), (1, 1), (1, 40), (2000, 7)]


# Boxes


def centered(total: int, part: int) -> int:
    """Return the offset of torchvision's CenterCrop, which rounds half to even."""
    return round((total - part) / 2)


def literature(views: int, height: int, width: int, size: int) -> set[View]:
    """Return the views of the papers, implemented independently.

    It lists pixels of the shorter side, offsets of the squares along the longer side, and
    offsets within a square.
    """
    shorts = {10: [int(size / 0.875)], 12: [round(size * 8 / 7)]}.get(views) or [
        round(size * side / 224) for side in (256, 288, 320, 352)
    ]
    expected = set()
    for short in shorts:
        long = int(short * max(height, width) / min(height, width))
        starts = [0, centered(long, short), long - short]
        for start in starts if views == 144 else starts[1:2]:
            inner = [(y, x, size) for y in (0, short - size) for x in (0, short - size)]
            inner += [(centered(short, size), centered(short, size), size)]
            if views != 10:
                inner += [(0, 0, short)]
            for y, x, side in inner:
                for flip in (False, True):
                    wide = width > height
                    box = Box(y, x + start, side, side)
                    if not wide:
                        box = Box(y + start, x, side, side)
                    expected.add(View((short, long) if wide else (long, short), box, flip))
    return expected


@pytest.mark.parametrize("size", [299, 224, 28])
@pytest.mark.parametrize("views", [10, 12, 144])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (640, 333), (4, 3000)])
def test_boxes_are_those_of_the_literature(views, height, width, size):
    spec = PreprocessSpec((size, size, 3))
    listed = list_views(height, width, spec, views)
    assert len(listed) == views == len(set(listed))
    assert set(listed) == literature(views, height, width, size)
    half = views // 2
    assert listed[half:] == [view._replace(flip=True) for view in listed[:half]]


def test_squares_of_a_square_image_coincide():
    for views, different in [(10, 10), (12, 12), (144, 48)]:
        listed = list_views(333, 333, SQUARE, views)
        assert len(listed) == views
        assert set(listed) == literature(views, 333, 333, 299)
        assert len(set(listed)) == different


def test_the_paper_s_144_views_at_224_pixels():
    # arXiv 1409.4842, section 7, applied by hand to a photo of 500x375 pixels.
    listed = list_views(375, 500, PreprocessSpec((224, 224, 3)), 144)
    assert list(dict.fromkeys(view.resized for view in listed)) == [
        (256, 341),
        (288, 384),
        (320, 426),
        (352, 469),
    ]
    assert [view.box for view in listed[6:12]] == [
        *(Box(0, 42, 224, 224), Box(0, 74, 224, 224)),
        *(Box(32, 42, 224, 224), Box(32, 74, 224, 224)),
        *(Box(16, 58, 224, 224), Box(0, 42, 256, 256)),
    ]


@pytest.mark.parametrize("shape", [(299, 299, 3), (8, 8, 1), (40, 100, 3), (100, 40, 3)])
@pytest.mark.parametrize("aspect", ["stretch", "keep"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_box_is_inside_its_image(height, width, aspect, shape):
    for fraction in (0.01, 0.5, 0.875, 1.0):
        spec = PreprocessSpec(shape, fraction, aspect)
        for views in (1, 10, 12, 144) if shape[0] == shape[1] else (1,):
            for resized, box, _ in list_views(height, width, spec, views):
                assert min(box.top, box.left) >= 0 < min(box.height, box.width)
                assert box.top + box.height <= resized[0]
                assert box.left + box.width <= resized[1]


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((375, 500), (114, 152), Box(7, 26, 100, 100)),
        ((500, 375), (152, 114), Box(26, 7, 100, 100)),
    ],
)
def test_the_single_view_that_keeps_the_aspect(size, resized, box):
    spec = PreprocessSpec((100, 100, 3), aspect="keep")
    assert list_views(*size, spec, 1) == [View(resized, box, False)]


def test_an_input_that_is_not_square_is_covered():
    # The height decides: 100 / 0.5 rows and 200 * 3 columns, more than the 80 / 0.5 needed.
    spec = PreprocessSpec((100, 80, 3), 0.5, "keep")
    assert list_views(10, 30, spec, 1) == [View((200, 600), Box(50, 260, 100, 80), False)]
    assert list_views(30, 10, spec, 1)[0].resized == (480, 160)


# Pixels


@pytest.mark.parametrize("portrait", [False, True])
def test_views_are_slices_if_nothing_is_resized(portrait):
    # For 28 pixels the second scale is 36, at which the image is not resized.
    image = picture(50, 36) if portrait else picture(36, 50)
    views = eval_views(image, PreprocessSpec((28, 28, 3)), 144)
    assert views.shape == (144, 28, 28, 3)
    assert views.dtype == np.uint8
    expected = []
    for start in (0, 7, 14):
        square = image[start:][:36] if portrait else image[:, start:][:, :36]
        expected += [square[y:, x:][:28, :28] for y in (0, 8) for x in (0, 8)]
        expected += [square[4:32, 4:32], resize(square, (28, 28), "bilinear")]
    np.testing.assert_array_equal(views[18:36], expected)
    np.testing.assert_array_equal(views[72:], views[:72, :, ::-1])


def test_ten_views_are_slices():
    image = picture(32, 41)
    views = eval_views(image, PreprocessSpec((28, 28, 3)), 10)
    square = image[:, 4:36]
    expected = [square[y:, x:][:28, :28] for y in (0, 4) for x in (0, 4)]
    np.testing.assert_array_equal(views[:5], [*expected, square[2:30, 2:30]])
    np.testing.assert_array_equal(views[5:], views[:5, :, ::-1])


def test_views_of_one_channel():
    image = picture(40, 50)
    views = eval_views(image[..., :1], PreprocessSpec((28, 28, 1)), 12)
    assert views.shape == (12, 28, 28, 1)
    colored = eval_views(image, PreprocessSpec((28, 28, 3)), 12)[..., :1]
    np.testing.assert_allclose(views, colored.astype(int), atol=1)


# Errors


@pytest.mark.parametrize("views", [0, 2, -1, 100])
def test_unknown_number_of_views(views):
    message = f"views must be 1, 10, 12 or 144, got {views}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        eval_views(picture(9, 9), SQUARE, views)


@pytest.mark.parametrize("views", [10, 12, 144])
def test_several_views_need_a_square_input(views):
    message = (
        f"{views} views are defined for square inputs, got image_shape (30, 40, 3); "
        "use 1 view."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        eval_views(picture(9, 9), PreprocessSpec((30, 40, 3)), views)


def test_description_of_the_preprocessing():
    stretch = PreprocessSpec((160, 128, 1), 0.75, low=0.0, high=1.0)
    assert describe_preprocessing(stretch) == (
        "grey, the central 0.75 of both sides stretched to 160x128, bilinear; a pixel p "
        "from 0 to 255 becomes p * 0.0039215686 + 0"
    )
    keep = PreprocessSpec(crop_fraction=0.8975, aspect="keep", resize="bicubic")
    assert describe_preprocessing(keep) == (
        "RGB, resized (same aspect) to cover 333x333, then the central 299x299, "
        "bicubic; a pixel p from 0 to 255 becomes p * 0.0078431373 - 1"
    )
