# SPDX-License-Identifier: Apache-2.0
"""Random crop boxes are distributed like TensorFlow's; training views use them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.augment import normalize, random_box, train_view
from inception_jax.data.crops import crop, eval_views, resize
from tests.goldens.fill import HERE
from tests.goldens.regenerate_preprocessing import (
    BOX_CASES,
    FIGURES,
    box_counts,
    picture,
)

SPEC = PreprocessSpec((20, 24, 3))
CONFIG = AugmentConfig()


@pytest.fixture(scope="module")
def tensorflow():
    with np.load(HERE / "preprocessing_tensorflow.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def draw(count: int, height: int, width: int, config: AugmentConfig = CONFIG) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.array([random_box(height, width, rng, config) for _ in range(count)])


# Boxes


@pytest.mark.parametrize("case", BOX_CASES)
def test_boxes_are_distributed_as_in_tensorflow(tensorflow, case):
    height, width, area, covered = BOX_CASES[case]
    config = AugmentConfig(area=area, min_covered=covered)
    boxes = draw(10_000, height, width, config)
    counts = box_counts(boxes, height, width)
    counts["top"] = as_tensorflow_places(boxes[:, 0], height - boxes[:, 2], height)
    counts["left"] = as_tensorflow_places(boxes[:, 1], width - boxes[:, 3], width)
    for figure in FIGURES:
        golden = tensorflow[f"boxes/{case}/{figure}"]
        ours = np.cumsum(counts[figure]) / 10_000
        distance = np.abs(ours - np.cumsum(golden) / golden.sum()).max()
        # Kolmogorov-Smirnov test: equal distributions exceed this with probability 1e-4.
        assert distance < 2.23 * (1 / 10_000 + 1 / golden.sum()) ** 0.5, figure


def as_tensorflow_places(places: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """Return counts of positions without `last`, with the others weighted up.

    TensorFlow never draws the last position unless it is the only one.
    """
    others = np.where(places == last, 0.0, (last + 1) / np.maximum(last, 1))
    weights = np.where(last == 0, 1.0, others)
    return np.bincount(places, weights, minlength=length + 1)


def test_all_positions_of_a_box_are_equally_likely():
    boxes = draw(20_000, 8, 8, AugmentConfig(area=(0.5, 0.8), ratio=(1.0, 1.0)))
    for size in (6, 7):
        of_size = boxes[boxes[:, 2] == size]
        counts = np.bincount(of_size[:, 0] * 3 + of_size[:, 1], minlength=9)
        counts = counts[counts > 0]
        assert len(counts) == (9 - size) ** 2
        np.testing.assert_allclose(counts / len(of_size), 1 / len(counts), atol=0.02)


def generated_sizes() -> list[tuple[int, int]]:
    sides = np.exp(np.random.default_rng(3).uniform(0, 8, (150, 2))).astype(int)
    extreme = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3000), (3000, 1), (2, 3000), (3000, 2)]
    return extreme + [(int(height), int(width)) for height, width in sides]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        AugmentConfig(area=(1e-6, 1.0), min_covered=0.0),
        AugmentConfig(area=(1e-6, 1e-4), min_covered=0.0, ratio=(0.01, 100.0)),
        AugmentConfig(area=(0.3, 0.4), min_covered=0.0, ratio=(1.0, 1.0)),
    ],
)
def test_boxes_are_inside_and_respect_their_bounds(config):
    rng = np.random.default_rng(5)
    for height, width in generated_sizes():
        for _ in range(5):
            box = random_box(height, width, rng, config)
            assert all(type(number) is int for number in box)
            assert min(box.top, box.left) >= 0 < min(box.height, box.width)
            assert box.top + box.height <= height
            assert box.left + box.width <= width
            if box != (0, 0, height, width):
                share = box.height * box.width / (height * width)
                least = max(config.area[0], config.min_covered)
                assert least - 1e-9 <= share <= config.area[1] + 1e-9
                low, high = (ratio * box.height for ratio in config.ratio)
                assert low - 0.5 <= box.width <= high + 0.5


def test_whole_image_if_no_box_is_possible():
    config = AugmentConfig(area=(0.5, 0.9), ratio=(3.0, 4.0))
    assert (draw(20, 100, 100, config) == (0, 0, 100, 100)).all()
    # But not if boxes are only rare.
    assert (draw(20, 100, 190, config) != (0, 0, 100, 190)).any()


def test_boxes_equal_those_of_earlier_runs():
    # If this fails, earlier runs can no longer be resumed or reproduced.
    assert draw(3, 375, 500).tolist() == [
        [80, 105, 286, 318],
        [3, 67, 314, 277],
        [0, 30, 350, 440],
    ]


# Views


def test_train_view_is_the_stretched_box():
    image = picture(50, 70)
    image.flags.writeable = False
    config = AugmentConfig(flip=False)
    for seed in range(20):
        box = random_box(50, 70, np.random.default_rng(seed), config)
        view = train_view(image, np.random.default_rng(seed), SPEC, config)
        np.testing.assert_array_equal(view, resize(crop(image, box), (20, 24), "bilinear"))
    bicubic = PreprocessSpec((20, 24, 3), resize="bicubic")
    view = train_view(image, np.random.default_rng(19), bicubic, config)
    np.testing.assert_array_equal(view, resize(crop(image, box), (20, 24), "bicubic"))


@pytest.mark.parametrize("crop", [False, True])
def test_half_of_the_views_are_mirrored(crop):
    mirrored = 0
    for seed in range(200):
        plain, either = (
            train_view(
                picture(50, 70),
                np.random.default_rng(seed),
                SPEC,
                AugmentConfig(crop=crop, flip=flip),
            )
            for flip in (False, True)
        )
        mirrored += (either != plain).any()
        assert (either == plain).all() or (either == plain[:, ::-1]).all()
    assert 75 < mirrored < 125


def test_without_a_crop_the_view_is_that_of_evaluation():
    for spec in (SPEC, PreprocessSpec((20, 24, 3), aspect="keep", resize="bicubic")):
        view = train_view(
            picture(50, 70),
            np.random.default_rng(0),
            spec,
            AugmentConfig(crop=False, flip=False),
        )
        np.testing.assert_array_equal(view, eval_views(picture(50, 70), spec, 1)[0])


# Range


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_black_is_low_and_white_is_high(low, high, dtype):
    levels = jnp.arange(256, dtype=dtype).reshape(1, 16, 16, 1)
    out = jax.jit(normalize, static_argnums=(1, 2))(levels, low, high)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(
        out.ravel(), np.linspace(low, high, 256, dtype=np.float32), atol=3e-7
    )


# Config


def test_defaults_are_slim_s():
    assert AugmentConfig() == AugmentConfig(
        crop=True,
        area=(0.05, 1.0),
        ratio=(0.75, 1.33),
        min_covered=0.1,
        flip=True,
        color=True,
    )


@pytest.mark.parametrize("value", [-0.1, 0.6, float("nan")])
def test_invalid_min_covered(value):
    message = f"min_covered must be from 0 to the largest area, 0.5, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AugmentConfig(area=(0.1, 0.5), min_covered=value)
