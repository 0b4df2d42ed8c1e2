# SPDX-License-Identifier: Apache-2.0
"""Figures over training steps."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from experiments.residual_scaling.claims_mechanism import limit
from experiments.residual_scaling.figures import style
from experiments.residual_scaling.grids import Cell, Grid, cell_label, grids, scale_label
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.records import (
    Record,
    Records,
    signal,
    steps_taken,
    training_loss,
)
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import censored

Rows = Sequence[Sequence[Cell | None]]
Line = tuple[np.ndarray, np.ndarray]  # steps and values


def loss_and_dead(grid: Grid) -> Figure:
    """Plot loss above dead channels; rows are learning rates, columns widths."""
    return _loss_and_dead(grid.rows, grid.all_scales)


def loss_and_dead_of_single_cells(records: Records) -> Figure | None:
    """Plot loss and dead channels for scales compared at one width and learning rate."""
    single = [grid for grid in grids(records) if len(grid.cells) == 1]
    if not single:
        return None
    columns = min(3, len(single))
    cells: list[Cell | None] = [grid.cells[0] for grid in single]
    cells += [None] * (-len(cells) % columns)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    figure = _loss_and_dead(rows, single[0].all_scales)
    tops = np.reshape(figure.axes, (-1, columns))[::2].flat
    for axes, grid in zip(tops, single, strict=False):
        axes.set_title(f"{grid}\n{axes.get_title()}", fontsize=8, wrap=True)
    return figure


def _loss_and_dead(rows: Rows, scales: Sequence[float | None]) -> Figure:
    styles = style.line_styles(scales)
    figure, axes = style.panels(2 * len(rows), len(rows[0]), height=2.1, sharex="col")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            top, bottom = axes[2 * i, j], axes[2 * i + 1, j]
            if cell is None:
                top.set_axis_off()
                bottom.set_axis_off()
                continue
            for scale in cell.scales:
                _seeds_and_median(top, cell, scale, _losses, styles[scale])
                _seeds_and_median(bottom, cell, scale, _probes("pool_dead"), styles[scale])
            top.set_title(cell_label(cell.run), fontsize=9)
            top.set_yscale("log")
            style.percent(bottom)
            style.light_grid(top)
            style.light_grid(bottom)
            bottom.tick_params(labelbottom=True)
            bottom.set_xlabel("training step", fontsize=9)
            if j == 0:
                top.set_ylabel("training loss (nats)", fontsize=9)
                bottom.set_ylabel("dead channels", fontsize=9)
    return style.finish(figure)


def _losses(record: Record) -> Line:
    loss = training_loss(record)
    steps = np.arange(1, len(loss) + 1) * record["loss_every"]
    return np.minimum(steps, steps_taken(record)), loss


def _probes(name: str) -> Callable[[Record], Line]:
    return lambda record: (signal(record, "step"), signal(record, name))


def _seeds_and_median(
    axes: Axes,
    cell: Cell,
    scale: float | None,
    line: Callable[[Record], Line],
    line_style: style.LineStyle,
) -> None:
    """Plot thin lines for the seeds and a thick one for their median."""
    records = cell.at(scale).values()
    diverged = [record["outcome"] == Outcome.DIVERGED for record in records]
    lines = [line(record) for record in records]
    for x, y in lines:
        axes.plot(x, y, linewidth=0.7, alpha=0.45, **line_style | {"marker": None})
    x, median = median_of(lines, diverged)
    axes.plot(
        x, median, linewidth=2, label=scale_label(scale), markersize=5,
        markevery=max(1, len(x) // 8), **line_style,
    )  # fmt: skip


def median_of(lines: Sequence[Line], diverged: Sequence[bool]) -> Line:
    """Median over the seeds, as long as every seed that did not diverge has values.

    A diverged seed counts as infinite, so the median is NaN once half have diverged.
    """
    whole = [len(x) for (x, _), ended in zip(lines, diverged, strict=True) if not ended]
    length = min(whole) if whole else max(len(x) for x, _ in lines)
    x = max((x for x, _ in lines), key=len)[:length]
    stack = np.full((len(lines), len(x)), np.inf)
    for row, (_, y) in zip(stack, lines, strict=True):
        row[: len(y)] = np.where(np.isfinite(y), y, np.inf)[:length]
    median = np.median(stack, axis=0)
    return x, np.where(np.isfinite(median), median, np.nan)


def curvature(grid: Grid) -> Figure:
    """Plot the curvature of the classifier's block and the limit for the learning rate."""
    styles = style.line_styles(grid.all_scales)
    figure, cell_panels = style.grid_panels(grid, "largest eigenvalue", sharey=True)
    for panel, cell in cell_panels:
        for scale in cell.scales:
            _seeds_and_median(panel, cell, scale, _probes("curvature"), styles[scale])
        panel.axhline(
            limit(cell.run), color="black", linewidth=1.4, linestyle=(0, (1, 1)),
            label="limit: 2 (1 + momentum) / learning rate",
        )  # fmt: skip
        panel.set_yscale("log")
        panel.set_xlabel("training step", fontsize=9)
    return style.finish(figure)


def survival(grid: Grid) -> Figure:
    """Plot Kaplan-Meier estimates of survival with 95 % bands."""
    styles = style.line_styles(grid.all_scales)
    figure, cell_panels = style.grid_panels(grid, "surviving runs", sharey=True)
    for panel, cell in cell_panels:
        for scale in cell.scales:
            records = cell.at(scale).values()
            _kaplan_meier(panel, records, scale_label(scale), styles[scale])
        style.percent(panel)
        panel.set_xlabel("training step", fontsize=9)
    return style.finish(figure)


def _kaplan_meier(
    axes: Axes, records: Collection[Record], label: str, line_style: style.LineStyle
) -> None:
    deaths = [record["death_step"] for record in records]
    ends = [steps_taken(record) for record in records]
    died = [death is not None for death in deaths]
    times = [e if d is None else d for d, e in zip(deaths, ends, strict=True)]
    end = max(ends)
    line = {name: value for name, value in line_style.items() if name != "marker"}
    mark = {"marker": line_style["marker"], "markersize": 5, "markevery": [-1]}
    if not any(died):
        axes.plot([0, end], [1, 1], linewidth=2, label=label, **line, **mark)
        return
    survival_curve = stats.ecdf(censored(times, died)).sf
    with warnings.catch_warnings():
        # The band is undefined where no run or every run has died.
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival_curve.confidence_interval(method="log-log")
    steps = np.r_[0, survival_curve.quantiles, end]
    shares = (curve.probabilities for curve in (survival_curve, band.low, band.high))
    alive, low, high = (np.r_[1, share, share[-1]] for share in shares)
    axes.step(steps, alive, where="post", linewidth=2, label=label, **line, **mark)
    axes.fill_between(steps, low, high, step="post", alpha=0.15, color=line_style["color"])


def convergence(records: Records) -> Figure | None:
    """Plot accuracy over steps: residual blocks against blocks without a sum."""
    cells = _comparisons(records)
    if not cells:
        return None
    styles = style.line_styles(sorted({name for cell in cells for name in cell}))
    columns = min(3, len(cells))
    figure, axes = style.panels(-(-len(cells) // columns), columns, 4.4, 3.2, sharey=True)
    for panel in axes.flat[len(cells) :]:
        panel.set_axis_off()
    for panel, cell in zip(axes.flat, cells, strict=False):
        for name, runs in cell.items():
            _range(panel, list(runs.values()), name, styles[name])
        run = next(iter(next(iter(cell.values()))))
        panel.set_title(cell_label(run), fontsize=9)
        style.percent(panel)
        style.light_grid(panel)
        panel.set_xlabel("training step", fontsize=9)
        panel.set_ylabel("accuracy on the probe images", fontsize=9)
    return style.finish(figure)


def _comparisons(records: Records) -> list[dict[str, dict[Run, Record]]]:
    """Group runs by block and scale if residual runs have counterparts without a sum."""
    cells: dict[Run, dict[str, dict[Run, Record]]] = {}
    for run, record in records.items():
        same = replace(run, block="v1", scale=1.0, seed=0)
        name = run.block
        if run.block in ("v1", "v2"):
            name = f"residual {run.block}, {scale_label(run.scale)}"
        cells.setdefault(same, {}).setdefault(name, {})[run] = record
    wanted = {"plain", "concat"}
    return [cell for cell in cells.values() if wanted & set(cell) and set(cell) - wanted]


def _range(
    axes: Axes, records: Sequence[Record], name: str, line_style: style.LineStyle
) -> None:
    """Plot median and range over the seeds, at the probes that all of them have."""
    length = min(len(record["probes"]["step"]) for record in records)
    steps = signal(records[0], "step")[:length]
    values = np.stack([signal(record, "accuracy")[:length] for record in records])
    median = np.median(values, axis=0)
    axes.plot(steps, median, linewidth=2, label=name, markersize=5, **line_style)
    axes.fill_between(
        steps, values.min(axis=0), values.max(axis=0), alpha=0.15, color=line_style["color"]
    )
