# SPDX-License-Identifier: Apache-2.0
"""Colour distortion equals TensorFlow's; its amounts depend only on the seed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.data.augment import adjust_color, distort_color, draw_color
from tests.goldens.fill import HERE
from tests.goldens.regenerate_preprocessing import AMOUNTS, picture


@pytest.mark.parametrize("order", range(4))
def test_color_equals_that_of_tensorflow(order):
    with np.load(HERE / "preprocessing_tensorflow.npz", allow_pickle=False) as arrays:
        golden = arrays["color"]
    image = jnp.asarray(picture(12, 14), jnp.float32) / 255
    for amounts, expected in zip(AMOUNTS, golden, strict=True):
        out = jax.jit(adjust_color)(image, jnp.int32(order), *map(jnp.float32, amounts))
        np.testing.assert_allclose(out, expected[order], atol=3e-6, rtol=0)


def reference(image, order, brightness, saturation, hue, contrast):
    """Compute in float64, pixel by pixel, through HSV, without intermediate clipping."""

    def hsv(rgb):
        high, span = max(rgb), max(rgb) - min(rgb)
        if span == 0:
            return 0.0, 0.0, high
        largest = list(rgb).index(high)
        turn = (rgb[(largest + 1) % 3] - rgb[(largest + 2) % 3]) / span / 6 + largest / 3
        return turn, span / high if high > 0 else 0.0, high

    def rgb(turn, high, span):
        sector, part = divmod(turn % 1 * 6, 1)
        low, up, down = high - span, high - span * (1 - part), high - span * part
        return [
            (high, up, low),
            (down, high, low),
            (low, high, up),
            (low, down, high),
            (up, low, high),
            (high, low, down),
        ][int(sector)]

    def saturate(pixel):
        turn, share, high = hsv(pixel)
        return rgb(turn, high, high * min(1, max(0, share * saturation)))

    def turn_hue(pixel):
        return rgb(hsv(pixel)[0] + hue, max(pixel), max(pixel) - min(pixel))

    for name in order:
        if name == "brightness":
            image = image + brightness
        elif name == "contrast":
            mean = image.mean((0, 1))
            image = mean + contrast * (image - mean)
        else:
            change = saturate if name == "saturation" else turn_hue
            image = np.apply_along_axis(change, 2, image)
    return np.clip(image, 0, 1)


SLIM_ORDERS = [
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
]


def test_distort_color_equals_the_reference_with_the_drawn_amounts():
    images = np.stack([picture(12, 14)] * 16)
    seeds = jnp.arange(16, dtype=jnp.uint32)
    out = jax.jit(distort_color)(jnp.asarray(images), seeds)
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    orders = set()
    for image, seed, changed in zip(images, seeds, out, strict=True):
        order, *amounts = draw_color(seed)
        orders.add(int(order))
        expected = reference(image / 255, SLIM_ORDERS[order], *map(float, amounts))
        np.testing.assert_allclose(changed, 255 * expected, atol=1e-3, rtol=0)
    assert orders == {0, 1, 2, 3}


def test_amounts_fill_slim_s_ranges():
    seeds = jnp.arange(4000, dtype=jnp.uint32)
    order, *amounts = jax.vmap(draw_color)(seeds)
    assert (np.abs(np.bincount(order, minlength=4) - 1000) < 120).all()
    ranges = [(-32 / 255, 32 / 255), (0.5, 1.5), (-0.2, 0.2), (0.5, 1.5)]
    for values, (low, high) in zip(amounts, ranges, strict=True):
        scaled = np.sort((values - low) / (high - low))
        np.testing.assert_allclose(scaled, np.linspace(0, 1, 4000), atol=0.03)
        assert scaled[0] >= -1e-6
        assert scaled[-1] <= 1 + 1e-6
    # Saturation and contrast have the same range, but are drawn independently.
    assert np.abs(np.corrcoef([order, *amounts]) - np.eye(5)).max() < 0.06


def test_color_equals_that_of_earlier_runs():
    # If this fails, earlier runs can no longer be resumed or reproduced.
    order, *amounts = draw_color(jnp.uint32(1602_07261))
    assert order == 1
    np.testing.assert_allclose(
        amounts, [-0.0965545, 0.9817338, -0.0458002, 1.1826965], rtol=1e-5
    )


def test_color_depends_only_on_image_and_seed():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (7, 15, 13, 3), dtype=np.uint8))
    seeds = jnp.asarray(rng.integers(0, 2**32, 7, dtype=np.uint32))
    change = jax.jit(distort_color)
    together = np.asarray(change(images, seeds))
    mixed = rng.permutation(7)
    close = {"rtol": 0, "atol": 1e-4}  # of 255
    np.testing.assert_allclose(
        change(images[mixed], seeds[mixed]), together[mixed], **close
    )
    alone = [change(images[i : i + 1], seeds[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(alone, together, **close)
    elsewhere = jax.device_put((images, seeds), jax.devices()[3])
    np.testing.assert_allclose(change(*elsewhere), together, **close)
    assert (change(images, seeds[::-1])[0] != together[0]).any()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_color_needs_three_channels(channels):
    images = jnp.zeros((2, 5, 5, channels), jnp.uint8)
    message = (
        f"colour can be changed only in images of 3 channels, got {channels}; "
        "set AugmentConfig.color to False."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        distort_color(images, jnp.zeros(2, jnp.uint32))
