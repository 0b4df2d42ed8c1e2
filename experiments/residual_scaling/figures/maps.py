# SPDX-License-Identifier: Apache-2.0
"""Heat maps, and signals by block."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from experiments.residual_scaling.comparisons import count_outcomes
from experiments.residual_scaling.figures import style
from experiments.residual_scaling.grids import Cell, Grid, cell_label, scale_label
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome, word_for
from experiments.residual_scaling.records import Record, signal

# The lightness of cividis is monotonic. Learning rates increase upwards.
HEAT_MAP = {"cmap": "cividis", "vmin": 0, "vmax": 1, "origin": "lower", "aspect": "auto"}


def outcome_maps(grid: Grid) -> Figure:
    """Plot shares of failed (above) and unstable runs (below), with a panel per scale."""
    size = 0.62 * len(grid.widths) + 1.1, 0.5 * len(grid.rates) + 0.8
    figure, axes = style.panels(2, len(grid.scales), *size, sharex=True, sharey=True)
    for row, outcomes in zip(axes, (FAILED, UNSTABLE), strict=True):
        for panel, scale in zip(row, grid.scales, strict=True):
            image = _shares(panel, grid, scale, outcomes)
            panel.set_title(f"{scale_label(scale)}\n{word_for(outcomes)}", fontsize=9)
        row[0].set_ylabel("learning rate", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("width (channels)", fontsize=9)
    bar = figure.colorbar(image, ax=axes, label="share of the seeds", shrink=0.8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _shares(
    axes: Axes, grid: Grid, scale: float | None, outcomes: Sequence[Outcome]
) -> AxesImage:
    shape = len(grid.rates), len(grid.widths)
    values = np.full(shape, np.nan)
    for i, row in enumerate(grid.rows):
        for j, cell in enumerate(row):
            share = count_outcomes(cell.at(scale) if cell else {}, outcomes)
            if not share.total:
                axes.text(j, i, "none", ha="center", va="center", fontsize=8)
                continue
            values[i, j] = share.count / share.total
            axes.text(
                j, i, f"{share.count}/{share.total}", ha="center", va="center", fontsize=10,
                color="black" if values[i, j] > 0.5 else "white",
            )  # fmt: skip
    axes.set_xticks(range(shape[1]), [str(width) for width in grid.widths], fontsize=8)
    axes.set_yticks(range(shape[0]), [f"{rate:g}" for rate in grid.rates], fontsize=8)
    return axes.imshow(values, **HEAT_MAP)


def widest_and_fastest(grid: Grid) -> Cell:
    """Return the cell with several scales of the largest width, then the highest rate.

    The choice depends only on the plan, not on results.
    """
    several = [cell for cell in grid.cells if len(cell.scales) > 1]
    return max(several, key=lambda cell: (cell.run.width, cell.run.learning_rate))


def dead_by_block(grid: Grid) -> Figure:
    """Plot dead channels by block and step, mean over the seeds, unscaled and scaled."""
    cell = widest_and_fastest(grid)
    scales = cell.scales
    chosen = [scales[0], min(scales, key=lambda s: (s is None, s))]
    figure, axes = style.panels(1, 2, 3.8, 3.2, sharey=True)
    for panel, scale in zip(axes[0], chosen, strict=True):
        image = _blocks(panel, list(cell.at(scale).values()))
        panel.set_title(scale_label(scale), fontsize=10)
        panel.set_xlabel("training step", fontsize=9)
    axes[0, 0].set_ylabel("residual block, input to output", fontsize=9)
    figure.suptitle(cell_label(cell.run).replace("\n", ", "), fontsize=9)
    bar = figure.colorbar(image, ax=axes, label="share of dead channels")
    bar.ax.tick_params(labelsize=8)
    return figure


def _blocks(axes: Axes, records: Sequence[Record]) -> AxesImage:
    """Plot the mean over the seeds that reached each probe."""
    longest = max(records, key=lambda record: len(record["probes"]["step"]))
    steps = signal(longest, "step")
    blocks = signal(longest, "dead").shape[1]
    stack = np.full((len(records), len(steps), blocks), np.nan)
    for row, record in zip(stack, records, strict=True):
        dead = signal(record, "dead")
        row[: len(dead)] = dead
    mean = np.ma.masked_invalid(stack).mean(axis=0)
    image = axes.imshow(mean.T, **HEAT_MAP)
    ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).astype(int))
    axes.set_xticks(ticks, [f"{steps[i]:.0f}" for i in ticks], fontsize=8)
    every = max(1, blocks // 10)
    axes.set_yticks(range(0, blocks, every), range(1, blocks + 1, every), fontsize=8)
    return image


SIGNALS = {
    "stream_rms": ("stream RMS", "log"),
    "stream_mean": ("stream mean", "linear"),
    "residual_ratio": ("residual / stream", "log"),
}


def propagation(grid: Grid) -> Figure:
    """Plot signals by block before the first step and at the last probe."""
    cell = widest_and_fastest(grid)
    styles = style.line_styles(grid.all_scales)
    figure, axes = style.panels(len(SIGNALS), 2, 3.8, 2.1, sharex=True, sharey="row")
    for row, (name, (words, axis_scale)) in zip(axes, SIGNALS.items(), strict=True):
        for panel, probe in zip(row, (0, -1), strict=True):
            for scale in cell.scales:
                values = [signal(r, name)[probe] for r in cell.at(scale).values()]
                _median_by_block(panel, values, scale_label(scale), styles[scale])
            panel.set_yscale(axis_scale)
            style.light_grid(panel)
        row[0].set_ylabel(words, fontsize=9)
    axes[0, 0].set_title("before the first step", fontsize=9)
    axes[0, 1].set_title("at the last probe", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("residual block, input to output", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(cell_label(cell.run).replace("\n", ", "), fontsize=9)
    return style.finish(figure)


def _median_by_block(
    axes: Axes, values: Sequence[np.ndarray], label: str, line_style: style.LineStyle
) -> None:
    finite = [of_seed for of_seed in values if np.isfinite(of_seed).all()]
    if not finite:
        return
    median = np.median(finite, axis=0)
    blocks = np.arange(1, len(median) + 1)
    axes.plot(blocks, median, linewidth=1.8, markersize=5, label=label, **line_style)
