# SPDX-License-Identifier: Apache-2.0
"""Random changes of training images: box and mirror image on the host, colour on devices.

Source: slim/preprocessing/inception_preprocessing.py, preprocess_for_train with
fast_mode=False, but with one kernel for resizing, where that mode draws one of four.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8, UInt32

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.crops import Box, crop, eval_views, mirror, resize

MAX_ATTEMPTS = 100  # slim: max_attempts=100

# slim's distort_color: the bounds of what is drawn.
MAX_BRIGHTNESS = 32 / 255  # added, of a range of 1
MAX_HUE = 0.2  # turns of the colour wheel
SATURATION = CONTRAST = (0.5, 1.5)  # factors

# slim applies (b)rightness, (s)aturation, (h)ue and (c)ontrast in one of four orders. Each
# is a part of one sequence, so that a batch of mixed orders runs through it together.
STEPS = "cbsbchbscb"
ORDERS = (
    ".bs..h..c.",
    "..sbch....",
    "c....hbs..",
    ".....h.scb",
)
_TAKEN = np.array([[letter != "." for letter in order] for order in ORDERS])


def random_box(
    height: int, width: int, rng: np.random.Generator, config: AugmentConfig
) -> Box:
    """A box of an image, drawn as TensorFlow's sample_distorted_bounding_box does.

    The object that has to be covered is the whole image, as in slim, whose trainer gives
    no boxes. A try draws width / height evenly from `config.ratio`, then the height evenly
    from those whole numbers that fit the image and `config.area`, then the place. After
    100 tries that break a bound it is the whole image.

    One difference: TensorFlow never puts a box at the last row or column that it could
    begin at. That is nothing in photos, but of 8 pixels it would never show the lower or
    the right end; here all places are equally likely.
    """
    for _ in range(MAX_ATTEMPTS):
        box = _try_box(height, width, rng.uniform(*config.ratio), rng, config)
        if box is not None:
            return box
    return Box(0, 0, height, width)


def _try_box(
    height: int, width: int, ratio: float, rng: np.random.Generator, config: AugmentConfig
) -> Box | None:
    least, most = (share * (height * width) for share in config.area)
    fitting = min(height, int((width + 0.5) / ratio))
    tallest = min(fitting, round(math.sqrt(most / ratio)))
    shortest = min(tallest, round(math.sqrt(least / ratio)))
    h = int(rng.integers(shortest, tallest + 1))
    # Where rounding alone breaks a bound, one row more or less is tried.
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
    """A random view of `spec.image_shape`: all of `config` but the colour.

    Raises ImportError without the `data` extra.
    """
    if config.crop:
        box = random_box(*image.shape[:2], rng, config)
        view = resize(crop(image, box), spec.image_shape[:2], spec.resize)
    else:
        view = eval_views(image, spec, 1)[0]
    return mirror(view) if config.flip and rng.random() < 0.5 else view


def normalize(
    images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"], low: float, high: float
) -> Float32[Array, "n h w c"]:
    """Images from 0 to 255 in the range of a network: `PreprocessSpec.low` to `high`."""
    return images.astype(jnp.float32) / 255 * (high - low) + low


def distort_color(
    images: UInt8[Array, "n h w c"], seeds: UInt32[Array, " n"]
) -> Float32[Array, "n h w c"]:
    """Images with slim's random changes of colour, from 0 to 255 as before.

    What happens to an image depends on its seed alone, wherever it stands and on whatever
    device. Brightness, saturation, hue and contrast are drawn evenly, as is their order.

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
    """Arguments of `adjust_color` from a seed: order, then the four amounts."""
    # Whatever jax's default generator is, a seed means the same.
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
    """slim's distort_color with given amounts; the image is, and remains, in [0, 1].

    Args:
      order: 0 to 3, which of `ORDERS`.
      brightness: is added to every channel.
      saturation: factor on the saturation of HSV.
      hue: turns of the colour wheel.
      contrast: factor on the difference from each channel's mean over the image.
    """
    planes = jnp.moveaxis(image, -1, 0)  # much the faster layout on a CPU
    taken = jnp.asarray(_TAKEN)[order]
    for step, letter in enumerate(STEPS):
        if letter == "b":
            adjusted = planes + brightness
        elif letter == "c":
            mean = planes.mean(axis=(1, 2), keepdims=True)
            adjusted = mean + (planes - mean) * contrast
        elif letter == "s":
            adjusted = _scale_saturation(planes, saturation)
        else:
            adjusted = _turn_hue(planes, hue)
        planes = jnp.where(taken[step], adjusted, planes)
    return jnp.moveaxis(jnp.clip(planes, 0, 1), 0, -1)


def _scale_saturation(
    planes: Float[Array, "3 h w"], factor: Float[Array, ""]
) -> Float[Array, "3 h w"]:
    """tf.image.adjust_saturation. HSV's saturation is (high - low) / high, at most 1.

    Its value is `high` and its hue the ratios of the differences from `high`: scaling
    the differences changes neither, and the way over HSV is not needed.
    """
    high, span = _high_and_span(planes)
    return high - (high - planes) * jnp.clip(high / _nonzero(span), 0, factor)


def _turn_hue(
    planes: Float[Array, "3 h w"], turns: Float[Array, ""]
) -> Float[Array, "3 h w"]:
    """tf.image.adjust_hue. It keeps the largest and the smallest channel of each pixel.

    On the wheel red is at 0, green at 1/3 and blue at 2/3 of a turn. A channel is largest
    up to a sixth of a turn from its place, and smallest from a third on.
    """
    red, green, blue = planes[:1], planes[1:2], planes[2:]
    high, span = _high_and_span(planes)
    # Not `red == high`: a compiler may compute a channel twice, with other roundings. Where
    # it matters which of two nearly equal channels is taken, both give the same.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / _nonzero(span),
        jnp.where(
            green >= blue,
            (blue - red) / _nonzero(span) + 2,
            (red - green) / _nonzero(span) + 4,
        ),
    )
    apart = sixths / 6 + turns - jnp.arange(3).reshape(3, 1, 1) / 3
    apart = jnp.abs(apart - jnp.round(apart))
    return high - span + span * jnp.clip(2 - 6 * apart, 0, 1)


def _high_and_span(
    planes: Float[Array, "3 h w"],
) -> tuple[Float[Array, "1 h w"], Float[Array, "1 h w"]]:
    high = planes.max(axis=0, keepdims=True)
    return high, high - planes.min(axis=0, keepdims=True)


def _nonzero(span: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(span > 0, span, 1)
