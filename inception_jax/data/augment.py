# SPDX-License-Identifier: Apache-2.0
"""Augmentation: random crops and flips on the host, random colour on the device.

Source: slim/preprocessing/inception_preprocessing.py, preprocess_for_train with
fast_mode=False. Unlike slim, which draws one of four resizing kernels, we always use that
of `PreprocessSpec`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8, UInt32

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.crops import Box, crop, eval_views, mirror, resize

MAX_ATTEMPTS = 100  # slim: max_attempts=100

# Bounds of the random amounts in slim's distort_color.
MAX_BRIGHTNESS = 32 / 255  # added to pixels in [0, 1]
MAX_HUE = 0.2  # turns of the colour wheel
SATURATION = CONTRAST = (0.5, 1.5)  # factors

# slim applies (b)rightness, (s)aturation, (h)ue and (c)ontrast in one of four orders. Each
# order is a subsequence of `STEPS`, so images of different orders can share a batch.
STEPS = "cbsbchbscb"
ORDERS = (".bs..h..c.", "..sbch....", "c....hbs..", ".....h.scb")
_IN_ORDER = np.array([[letter != "." for letter in order] for order in ORDERS])


def random_box(
    height: int, width: int, rng: np.random.Generator, config: AugmentConfig
) -> Box:
    """Return a random crop box, drawn like TensorFlow's sample_distorted_bounding_box.

    The object to cover is the whole image, because slim's trainer passes no bounding boxes.
    Each attempt draws width / height uniformly from `config.ratio`, the height uniformly
    from the integers that fit the image and `config.area`, and then the position. If all
    100 attempts violate a bound, the box is the whole image.

    TensorFlow never draws the last possible row or column, so it would never show the
    bottom or right edge of an image of 8 pixels. We draw all positions with equal
    probability.
    """
    for _ in range(MAX_ATTEMPTS):
        box = _attempt_box(height, width, rng.uniform(*config.ratio), rng, config)
        if box is not None:
            return box
    return Box(0, 0, height, width)


def _attempt_box(
    height: int, width: int, ratio: float, rng: np.random.Generator, config: AugmentConfig
) -> Box | None:
    least, most = (fraction * (height * width) for fraction in config.area)
    fitting = min(height, int((width + 0.5) / ratio))
    tallest = min(fitting, round(math.sqrt(most / ratio)))
    shortest = min(tallest, round(math.sqrt(least / ratio)))
    h = int(rng.integers(shortest, tallest + 1))
    # If only rounding violates a bound, try one row more or less.
    h += h * round(h * ratio) < least
    h -= h * round(h * ratio) > most
    w = round(h * ratio)
    least = max(least, config.min_covered * (height * width))
    if not (least <= h * w <= most and h <= height and w <= width):
        return None
    top, left = rng.integers([height - h + 1, width - w + 1])
    return Box(int(top), int(left), h, w)


def train_view(
    image: UInt8[np.ndarray, "h w c"],
    rng: np.random.Generator,
    spec: PreprocessSpec,
    config: AugmentConfig,
) -> UInt8[np.ndarray, "height width c"]:
    """Return a randomly cropped and flipped view of shape `spec.image_shape`.

    This applies all of `config` except the colour distortion. Raises ImportError without
    the `data` extra.
    """
    if config.crop:
        height, width, _ = image.shape
        box = random_box(height, width, rng, config)
        view = resize(crop(image, box), spec.image_shape[:2], spec.resize)
    else:
        view = eval_views(image, spec, 1)[0]
    return mirror(view) if config.flip and rng.random() < 0.5 else view


def normalize(
    images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"], low: float, high: float
) -> Float32[Array, "n h w c"]:
    """Scale pixels from [0, 255] to the range of a network, [low, high]."""
    return images.astype(jnp.float32) / 255 * (high - low) + low


def distort_color(
    images: UInt8[Array, "n h w c"], seeds: UInt32[Array, " n"]
) -> Float32[Array, "n h w c"]:
    """Apply slim's random colour distortion; pixels stay in [0, 255].

    The order and the amounts of brightness, saturation, hue and contrast are uniform and
    depend only on the seed of the image, not on its position in the batch or the device.

    Raises ValueError unless the images have three channels.
    """
    if images.shape[-1] != 3:
        raise ValueError(
            f"colour can be changed only in images of 3 channels, got {images.shape[-1]}; "
            "set AugmentConfig.color to False."
        )
    pixels = images.astype(jnp.float32) / 255
    return 255 * jax.vmap(adjust_color)(pixels, *jax.vmap(draw_color)(seeds))


def draw_color(seed: UInt32[Array, ""]) -> tuple[Array, Array, Array, Array, Array]:
    """Draw the arguments of `adjust_color`: the order, then the four amounts."""
    # Fixed, because the default generator of JAX is configurable.
    key = jax.random.key(seed, impl="threefry2x32")
    order, *u = jax.random.uniform(key, (5,), jnp.float32)
    return (
        (order * len(ORDERS)).astype(jnp.int32),
        MAX_BRIGHTNESS * (2 * u[0] - 1),
        SATURATION[0] + (SATURATION[1] - SATURATION[0]) * u[1],
        MAX_HUE * (2 * u[2] - 1),
        CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * u[3],
    )


def adjust_color(
    image: Float[Array, "h w 3"],
    order: Int[Array, ""],
    brightness: Float[Array, ""],
    saturation: Float[Array, ""],
    hue: Float[Array, ""],
    contrast: Float[Array, ""],
) -> Float[Array, "h w 3"]:
    """Apply slim's distort_color to an image in [0, 1]; the result is clipped to [0, 1].

    Args:
      order: index into `ORDERS`.
      brightness: value added to every channel.
      saturation: factor on the HSV saturation.
      hue: rotation in turns of the colour wheel.
      contrast: factor on the difference from each channel's mean over the image.
    """
    planes = jnp.moveaxis(image, -1, 0)  # this layout is much faster on a CPU
    in_order = jnp.asarray(_IN_ORDER)[order]
    for step, letter in enumerate(STEPS):
        if letter == "b":
            adjusted = planes + brightness
        elif letter == "c":
            mean = planes.mean(axis=(1, 2), keepdims=True)
            adjusted = mean + (planes - mean) * contrast
        elif letter == "s":
            adjusted = _scale_saturation(planes, saturation)
        else:
            adjusted = _rotate_hue(planes, hue)
        planes = jnp.where(in_order[step], adjusted, planes)
    return jnp.moveaxis(jnp.clip(planes, 0, 1), 0, -1)


def _scale_saturation(
    planes: Float[Array, "3 h w"], factor: Float[Array, ""]
) -> Float[Array, "3 h w"]:
    """Compute tf.image.adjust_saturation without converting to HSV.

    The saturation is (high - low) / high, where high and low are the largest and smallest
    channel. Scaling the differences from high changes neither the value, which is high, nor
    the hue, which depends on the ratios of the differences.
    """
    high, span = _high_and_span(planes)
    return high - (high - planes) * jnp.clip(high / _nonzero(span), 0, factor)


def _rotate_hue(
    planes: Float[Array, "3 h w"], turns: Float[Array, ""]
) -> Float[Array, "3 h w"]:
    """Compute tf.image.adjust_hue, which keeps the extreme channel values of each pixel.

    On the colour wheel, red is at 0, green at 1/3 and blue at 2/3 of a turn. A channel has
    the largest value up to 1/6 of a turn from its own position, and the smallest value from
    1/3 of a turn on.
    """
    red, green, blue = planes[:1], planes[1:2], planes[2:]
    high, span = _high_and_span(planes)
    # Not `red == high`: the compiler may compute a channel twice and round differently. For
    # two nearly equal channels, both branches give the same hue.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / _nonzero(span),
        jnp.where(
            green >= blue,
            (blue - red) / _nonzero(span) + 2,
            (red - green) / _nonzero(span) + 4,
        ),
    )
    distance = sixths / 6 + turns - jnp.arange(3).reshape(3, 1, 1) / 3
    distance = jnp.abs(distance - jnp.round(distance))
    return high - span + span * jnp.clip(2 - 6 * distance, 0, 1)


def _high_and_span(
    planes: Float[Array, "3 h w"],
) -> tuple[Float[Array, "1 h w"], Float[Array, "1 h w"]]:
    high = planes.max(axis=0, keepdims=True)
    return high, high - planes.min(axis=0, keepdims=True)


def _nonzero(span: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(span > 0, span, 1)
