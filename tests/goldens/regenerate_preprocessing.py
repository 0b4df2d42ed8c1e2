# SPDX-License-Identifier: Apache-2.0
"""Regenerate the goldens of preprocessing by running TensorFlow and timm.

    python -m tests.goldens.regenerate_preprocessing tensorflow
    python -m tests.goldens.regenerate_preprocessing timm

Each writes preprocessing_<name>.npz here. The first needs tensorflow, the second timm,
torch, torchvision and pillow, beside NumPy; tensorflow 2.21.0 and timm 1.0.31 with
torchvision 0.29.1 and pillow 13.0.0 gave the committed files. Nothing is downloaded.

TensorFlow's keys:
- `central_crop/<fraction>`: first row and number of rows, for images of 1 to 400 rows;
- `bilinear/<h>x<w>`: tf.image.resize of picture(60, 80);
- `slim_eval`: slim's preprocess_for_eval of picture(80, 60) at 36x32, half-pixel centres;
- `boxes/<case>/<figure>`: histograms over BOXES boxes of height, width, top and left, and,
  in 1000 bins from 0 to 1 and from 0 to 2, of the share of the area and width / height;
- `color`: slim's four orders of distort_color on picture(12, 14), for each of AMOUNTS.
timm's: `<h>x<w>`: its evaluation transform of picture(h, w), uint8.
"""

import argparse

import numpy as np

from tests.goldens.fill import HERE, uniform

FRACTIONS = (0.25, 1 / 3, 0.5, 0.8, 0.875, 0.9, 1.0)
RESIZED = ((37, 41), (30, 40), (75, 40))
BOXES = 200_000
# Height, width, area_range, min_object_covered: slim's bounds on four sizes, and others
# where rounding to whole pixels matters.
BOX_CASES = {
    "375x500": (375, 500, (0.05, 1.0), 0.1),
    "500x375": (500, 375, (0.05, 1.0), 0.1),
    "40x300": (40, 300, (0.05, 1.0), 0.1),
    "8x8": (8, 8, (0.05, 1.0), 0.1),
    "8x8 narrow": (8, 8, (0.3, 0.4), 0.0),
    "100x130 narrow": (100, 130, (0.3, 0.4), 0.0),
}
FIGURES = ("height", "width", "top", "left", "area", "ratio")
# Brightness, saturation, hue, contrast: the ends of slim's ranges, and between them.
AMOUNTS = (
    (0.1, 1.4, 0.17, 1.3),
    (-0.1, 0.6, -0.2, 0.7),
    (32 / 255, 1.5, -0.08, 1.5),
    (-32 / 255, 1.5, 0.2, 1.5),
    (0.02, 0.5, -0.15, 0.5),
)
TIMM_INPUT, TIMM_FRACTION = 32, 0.875
TIMM_SIZES = ((60, 80), (97, 61), (64, 64), (30, 41), (37, 36), (150, 90))


def picture(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: waves, noise, black, white, grey and pure colours."""
    h, w, c = np.indices((height, width, 3))
    waves = np.sin(0.31 * h + 1.9 * c) * np.cos(0.147 * w - 0.5 * c)
    noise = uniform(f"picture {height}x{width}", waves.size).reshape(waves.shape)
    image = np.rint(255 * np.clip(0.5 + 0.55 * waves + 0.5 * (noise - 0.5), 0, 1))
    image = image.astype(np.uint8)
    special = [0, 255, 128, (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    special += [(5, 20, 12), (250, 255, 240)]
    for row, value in enumerate(special[:height]):
        image[row, : width // 4] = value
    return image


def box_counts(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """Return the histograms of `boxes`, whose rows are top, left, height and width."""
    top, left, h, w = boxes.T
    classes = {
        **{"height": h, "width": w, "top": top, "left": left},
        # 1e-9: a share that is a whole number of classes must not fall below it.
        "area": (1000 * (h * w / (height * width)) + 1e-9).astype(int),
        "ratio": np.minimum(500 * (w / h) + 1e-9, 999).astype(int),
    }
    lengths = (height + 1, width + 1, height + 1, width + 1, 1001, 1000)
    return {
        figure: np.bincount(classes[figure], minlength=length).astype(np.uint32)
        for figure, length in zip(FIGURES, lengths, strict=True)
    }


def from_tensorflow() -> dict[str, np.ndarray]:
    import tensorflow as tf

    arrays = {}
    for fraction in FRACTIONS:
        rows = []
        for n in range(1, 401):
            column = np.arange(n, dtype=np.int32).reshape(n, 1, 1)
            kept = tf.image.central_crop(column, fraction).numpy()
            rows.append((kept.min(), kept.shape[0]))
        arrays[f"central_crop/{fraction}"] = np.array(rows, np.int16)
    for height, width in RESIZED:
        resized = tf.image.resize(picture(60, 80), (height, width), antialias=False)
        arrays[f"bilinear/{height}x{width}"] = resized.numpy()
    image = tf.image.convert_image_dtype(picture(80, 60), tf.float32)
    image = tf.image.resize(tf.image.central_crop(image, 0.875), (36, 32))
    arrays["slim_eval"] = ((image - 0.5) * 2.0).numpy()
    for name, case in BOX_CASES.items():
        for figure, count in box_counts(_tensorflow_boxes(*case), *case[:2]).items():
            arrays[f"boxes/{name}/{figure}"] = count
    arrays["color"] = np.array([_slim_orders(*amounts) for amounts in AMOUNTS])
    return arrays


def _tensorflow_boxes(
    height: int, width: int, area: tuple[float, float], covered: float
) -> np.ndarray:
    import tensorflow as tf

    def draw(seed):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3],
            tf.zeros([1, 0, 4]),
            seed=(seed, 1602_07261),
            min_object_covered=covered,
            aspect_ratio_range=(0.75, 1.33),
            area_range=area,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    drawn = tf.data.Dataset.range(BOXES).map(lambda i: draw(tf.cast(i, tf.int32)))
    return np.concatenate(list(drawn.batch(1000).as_numpy_iterator()))


def _slim_orders(
    brightness: float, saturation: float, hue: float, contrast: float
) -> list[np.ndarray]:
    from tensorflow import image as tf_image

    adjust = {
        "b": lambda x: tf_image.adjust_brightness(x, brightness),
        "s": lambda x: tf_image.adjust_saturation(x, saturation),
        "h": lambda x: tf_image.adjust_hue(x, hue),
        "c": lambda x: tf_image.adjust_contrast(x, contrast),
    }
    out = []
    for order in ("bshc", "sbch", "chbs", "hscb"):
        image = picture(12, 14).astype(np.float32) / np.float32(255)
        for letter in order:
            image = adjust[letter](image)
        out.append(np.clip(image, 0, 1))
    return out


def from_timm() -> dict[str, np.ndarray]:
    from PIL import Image
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, TIMM_INPUT, TIMM_INPUT),
        crop_pct=TIMM_FRACTION,
        interpolation="bicubic",
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    arrays = {}
    for height, width in TIMM_SIZES:
        tensor = transform(Image.fromarray(picture(height, width)))
        pixels = np.rint(255 * tensor.numpy().transpose(1, 2, 0))
        arrays[f"{height}x{width}"] = pixels.astype(np.uint8)
    return arrays


def main() -> None:
    makers = {"tensorflow": from_tensorflow, "timm": from_timm}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", choices=makers)
    name = parser.parse_args().name
    np.savez_compressed(HERE / f"preprocessing_{name}.npz", **makers[name]())


if __name__ == "__main__":
    main()
