# SPDX-License-Identifier: Apache-2.0
"""Crops and resizing by OpenCV and Pillow equal those of TensorFlow, slim and timm."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from inception_jax.config import PreprocessSpec
from inception_jax.data import crops
from inception_jax.data.crops import central_box, eval_views, resize
from tests.goldens.fill import HERE
from tests.goldens.regenerate_preprocessing import (
    FRACTIONS,
    RESIZED,
    TIMM_FRACTION,
    TIMM_INPUT,
    TIMM_SIZES,
    picture,
)


@pytest.fixture(scope="module")
def tensorflow():
    with np.load(HERE / "preprocessing_tensorflow.npz", allow_pickle=False) as arrays:
        return dict(arrays)


# Comparison with other implementations


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_central_box_equals_tensorflow_s(tensorflow, fraction):
    for n, (start, count) in enumerate(tensorflow[f"central_crop/{fraction}"], 1):
        assert central_box(n, 401 - n, fraction)[::2] == (start, count)
        assert central_box(401 - n, n, fraction)[1::2] == (start, count)


@pytest.mark.parametrize("size", RESIZED)
def test_bilinear_equals_tensorflow_within_a_grey_level(tensorflow, size):
    ours = resize(picture(60, 80), size, "bilinear")
    expected = tensorflow[f"bilinear/{size[0]}x{size[1]}"]
    np.testing.assert_allclose(ours, expected, atol=1, rtol=0)


def test_evaluation_equals_slim_within_a_grey_level(tensorflow):
    ours = eval_views(picture(80, 60), PreprocessSpec((36, 32, 3)), 1)[0]
    np.testing.assert_allclose(
        ours / 127.5 - 1, tensorflow["slim_eval"], atol=1 / 127.5, rtol=0
    )


@pytest.mark.parametrize("size", TIMM_SIZES)
def test_evaluation_that_keeps_the_aspect_equals_timm(size):
    spec = PreprocessSpec(
        (TIMM_INPUT, TIMM_INPUT, 3), TIMM_FRACTION, aspect="keep", resize="bicubic"
    )
    with np.load(HERE / "preprocessing_timm.npz", allow_pickle=False) as timm:
        expected = timm[f"{size[0]}x{size[1]}"].astype(int)
    # Identical with the same version of Pillow; other versions may round differently.
    np.testing.assert_allclose(
        eval_views(picture(*size), spec, 1)[0], expected, atol=1, rtol=0
    )


# Resizing


def test_reducing_bilinearly_averages_instead_of_aliasing():
    image = np.zeros((1000, 900, 3), np.uint8)
    image[::2] = 255
    for size in [(100, 90), (99, 90), (499, 900)]:
        assert np.abs(resize(image, size, "bilinear").astype(int) - 127.5).max() < 3


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_channels_are_resized_alike(kernel):
    image = picture(60, 80)
    for size in [(20, 30), (70, 90), (1, 1)]:
        whole = resize(image, size, kernel)
        assert whole.shape == (*size, 3)
        for channel in range(3):
            alone = resize(image[..., channel : channel + 1], size, kernel)
            assert alone.shape == (*size, 1)
            np.testing.assert_allclose(alone[..., 0], whole[..., channel], atol=1)


# Packages


@pytest.mark.parametrize(
    ("kernel", "module"), [("bilinear", "cv2"), ("bicubic", "PIL.Image")]
)
def test_missing_package(monkeypatch, kernel, module):
    monkeypatch.setitem(sys.modules, module, None)
    crops._opencv.cache_clear()
    message = f'{module} is missing: pip install "inception_jax[data]"'
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        resize(picture(9, 9), (3, 3), kernel)


def test_packages_are_imported_on_first_use():
    program = "import sys, inception_jax.data.augment; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "inception_jax" in loaded
    assert not loaded & {"cv2", "PIL"}


def test_opencv_uses_one_thread():
    cv2.setNumThreads(2)
    crops._opencv.cache_clear()
    resize(picture(9, 9), (3, 3), "bilinear")
    assert cv2.getNumThreads() == 1
