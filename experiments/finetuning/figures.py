# SPDX-License-Identifier: Apache-2.0
"""Figures of the report: the confusion matrix and the worst mistakes."""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import matplotlib.font_manager
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from experiments.finetuning.predictions import Predictions
from inception_jax.data.decoding import decode_example
from inception_jax.data.source import Source
from inception_jax.text import one_line

COLORS = "cividis"  # legible in greyscale and for colour-blind readers
MAX_WITH_COUNTS = 20  # classes up to which every cell shows its count
MAX_WITH_NAMES = 60  # classes up to which rows and columns show names
COLUMNS = 6  # of images
NO_GLYPH = "\N{WHITE SQUARE}"


def drawable(name: str, most: int) -> str:
    """Return a name in at most `most` characters, all of which matplotlib's font has."""
    text = one_line(name)
    text = text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return "".join(c if ord(c) in _glyphs() else NO_GLYPH for c in text)


@functools.cache
def _glyphs() -> frozenset[int]:
    path = matplotlib.font_manager.findfont(matplotlib.font_manager.FontProperties())
    return frozenset(FT2Font(path).get_charmap())


def confusion_figure(
    confusion: Int[np.ndarray, "k k"], class_names: Sequence[str]
) -> Figure:
    """Draw true classes as rows, predicted classes as columns, and shares as colours."""
    k = len(class_names)
    with_counts, with_names = k <= MAX_WITH_COUNTS, k <= MAX_WITH_NAMES
    cell = 0.45 if with_counts else 0.16 if with_names else 10 / k  # inches
    side = max(cell * k, 1.5)
    margin = 2.6 if with_names else 0.9
    size = (max(side + margin + 1, 5.5), side + margin)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap=COLORS, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if with_names:
        names = [drawable(name, 24) for name in class_names]
        axes.set_xticks(range(k), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(k), names, fontsize=8, parse_math=False)
    else:
        ticks = range(0, k, 10 * math.ceil(k / 200))
        axes.set_xticks(ticks, ticks, fontsize=8)
        axes.set_yticks(ticks, ticks, fontsize=8)
        axes.set_title("classes by number", fontsize=9)
    if with_counts:
        for (i, j), count in np.ndenumerate(confusion):
            color = "black" if shares[i, j] > 0.5 else "white"
            if count:
                axes.text(j, i, count, ha="center", va="center", fontsize=8, color=color)
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    bar.ax.tick_params(labelsize=8)
    return figure


def mistakes_figure(
    predictions: Predictions,
    source: Source,
    chosen: Int[np.ndarray, " m"],
    channels: Literal[1, 3],
) -> Figure | None:
    """Draw the chosen images with true class, predicted class and its probability."""
    if not len(chosen):
        return None
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(max(2.1 * columns, 3), 2.55 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    names = predictions.class_names
    for axes in panels:
        axes.set_axis_off()
    for axes, i in zip(panels, chosen.tolist(), strict=False):
        example = source.examples[int(predictions.positions[i])]
        axes.imshow(
            decode_example(example, channels).squeeze(), cmap="gray", vmin=0, vmax=255
        )
        predicted = predictions.predicted[i]
        axes.set_title(
            f"true: {drawable(names[predictions.labels[i]], 20)}\n"
            f"predicted: {drawable(names[predicted], 20)}\n"
            f"probability {predictions.probabilities[i, predicted]:.0%}",
            fontsize=8,
            loc="left",
            parse_math=False,
        )
    return figure
