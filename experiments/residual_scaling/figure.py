# SPDX-License-Identifier: Apache-2.0
"""The picture of the study: loss and dead channels over the steps, for every arm."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.residual_scaling.claims import Records, pick, rate_in_words
from experiments.residual_scaling.outcomes import NUM_CLASSES
from experiments.residual_scaling.runner import training_loss
from experiments.residual_scaling.study import PAPER_WIDTH

GUESSING = np.log(NUM_CLASSES)  # loss of equal chances for all classes
Style = tuple[str, str | tuple]  # colour, dashes

# Okabe and Ito's colours, told apart by the colour-blind; dashes tell them apart in print.
STYLES = (
    ("#D55E00", "-"),
    ("#0072B2", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#000000", (0, (6, 2))),
    ("#E69F00", (0, (3, 1, 1, 1))),
    ("#56B4E9", (0, (1, 3))),
)


def draw(records: Records, path: Path) -> None:
    """Draw `records` into `path` (PNG): a column for each width, two rows for each
    learning rate; thin lines are seeds, thick lines their median."""
    widths = sorted({arm.width for arm in records})
    rates = sorted({arm.learning_rate for arm in records})
    scales = sorted({arm.scale for arm in records}, reverse=True)
    rows, columns = 2 * len(rates), len(widths)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns + 1, 2.2 * rows + 1.6),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, rate in enumerate(rates):
        for column, width in enumerate(widths):
            top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
            for scale, style in zip(scales, STYLES[: len(scales)], strict=True):
                arms = pick(records, width=width, learning_rate=rate, scale=scale)
                _lines(top, arms, "loss", style, _label(scale))
                _lines(bottom, arms, "dead_fraction", style, _label(scale))
            _dress(top, bottom, width, rate_in_words(rate), first=column == 0)
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    seeds = len({arm.seed for arm in records})
    depth = next(iter(records.values()))["settings"]["depth"]
    figure.suptitle(
        "Do wide residual networks die unless their residuals are scaled down?\n"
        f"Handwritten digits, {depth} Inception-ResNet-C blocks; thin lines: {seeds} "
        "seeds, thick: their median.\n"
        "A dead channel is zero everywhere, for every image: it carries nothing and "
        "hardly ever comes back.",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _label(scale: float) -> str:
    return "unscaled residuals (1)" if scale == 1 else f"residuals scaled by {scale:g}"


def _lines(axis: Axes, arms: Records, quantity: str, style: Style, label: str) -> None:
    color, dashes = style
    histories = []
    for record in arms.values():
        if quantity == "loss":
            values = training_loss(record)
            steps = np.arange(1, len(values) + 1)
        else:
            values, steps = record["dead_fraction"], record["probe_steps"]
        axis.plot(steps, values, color=color, linestyle=dashes, linewidth=0.7, alpha=0.45)
        histories.append(values)
    if histories:
        median = np.median(histories, axis=0)
        axis.plot(steps, median, color=color, linestyle=dashes, linewidth=2, label=label)


def _dress(top: Axes, bottom: Axes, width: int, rate: str, *, first: bool) -> None:
    wide = ", above the paper's 1000" if width > PAPER_WIDTH else ""
    top.set_title(f"{width} channels{wide}\n{rate}", fontsize=9)
    top.set_yscale("log")
    top.axhline(GUESSING, color="0.4", linewidth=0.8, linestyle=(0, (1, 2)))
    bottom.set_ylim(-0.04, 1.04)
    bottom.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    for axis in (top, bottom):
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
    if first:
        top.set_ylabel("training loss")
        top.annotate(
            "guessing",
            (0.99, GUESSING),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
            color="0.3",
        )
        bottom.set_ylabel("dead channels\nbefore the average pool")
