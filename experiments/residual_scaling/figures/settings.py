# SPDX-License-Identifier: Apache-2.0
"""Figures of results against settings of the runs."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.residual_scaling.claims_mechanism import control_number
from experiments.residual_scaling.comparisons import count_outcomes, group_by
from experiments.residual_scaling.figures import style
from experiments.residual_scaling.grids import (
    Grid,
    cell_label,
    main_grids,
    scale_label,
    scales_in,
    single_change,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome, word_for
from experiments.residual_scaling.records import (
    Record,
    Records,
    settings_in,
    signal,
    test_accuracy,
)
from experiments.residual_scaling.runs import Run, describe_fields
from experiments.residual_scaling.statistics import t_interval


def collapse(records: Records) -> Figure | None:
    """Plot the outcome of every run against its control number and against its width."""
    residual = {a: r for a, r in records.items() if a.block in ("v1", "v2")}
    if not residual:
        return None
    figure, axes = style.panels(1, 2, 5.2, 3.6, sharey=True)
    against = {
        "learning rate x curvature before step 1 / (2 (1 + momentum))": control_number,
        "width (channels)": lambda run, _: run.width,
    }
    for panel, (words, number) in zip(axes[0], against.items(), strict=True):
        # Widths take few values, so their points are spread.
        spread = 0.0 if number is control_number else 0.07
        _outcomes(panel, residual, number, spread)
        panel.set_xscale("log")
        panel.set_xlabel(words, fontsize=9)
        style.light_grid(panel)
    widths = sorted({run.width for run in residual})
    axes[0, 1].set_xticks(widths, [str(width) for width in widths])
    axes[0, 1].minorticks_off()
    axes[0, 0].axvline(1, color="black", linewidth=1.2, linestyle=(0, (1, 1)))
    axes[0, 0].set_yticks(range(len(Outcome)), [str(o) for o in reversed(Outcome)])
    return style.finish(figure)


def _outcomes(
    axes: Axes, records: Records, number: Callable[[Run, Record], float], spread: float
) -> None:
    rows = {str(outcome): i for i, outcome in enumerate(reversed(Outcome))}
    styles = style.line_styles(scales_in(records))
    rng = np.random.default_rng(0)  # apart, so that points do not hide one another
    for scale, line_style in styles.items():
        mine = [(a, r) for a, r in records.items() if a.scale == scale]
        x = np.array([number(run, record) for run, record in mine], float)
        y = np.array([rows[record["outcome"]] for _, record in mine], float)
        x *= rng.uniform(1 - spread, 1 + spread, len(x))
        axes.scatter(
            x, y + rng.uniform(-0.28, 0.28, len(y)), s=26, alpha=0.75, linewidths=0.8,
            facecolors="none", edgecolors=line_style["color"], marker=line_style["marker"],
            label=scale_label(scale),
        )  # fmt: skip


def accuracy(grid: Grid) -> Figure:
    """Plot test accuracy by scale: means with 95 % t intervals, dots for seeds."""
    styles = style.line_styles(grid.all_scales)
    figure, cell_panels = style.grid_panels(grid, "test accuracy", height=2.3, sharex=True)
    places = {scale: i for i, scale in enumerate(grid.scales)}
    names = [scale_label(scale) for scale in grid.scales]
    for panel, cell in cell_panels:
        for scale in cell.scales:
            records = cell.at(scale).values()
            values = np.array([test_accuracy(record) for record in records])
            _interval(panel, places[scale], values[np.isfinite(values)], styles[scale])
        # Each panel has its own range, so that a difference of half a point is visible.
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
    return figure


def _interval(
    axes: Axes, place: int, values: np.ndarray, line_style: style.LineStyle
) -> None:
    if not len(values):
        return
    color, marker = line_style["color"], line_style["marker"]
    mean = t_interval(values)
    low, high = max(mean.low, 0.0), min(mean.high, 1.0)
    spread = [[mean.value - low], [high - mean.value]]
    if not np.isfinite(mean.high):
        spread = None  # of too few seeds
    axes.errorbar(
        place, mean.value, spread, color=color, marker=marker, markersize=7,
        capsize=4, linewidth=1.8,
    )  # fmt: skip
    axes.plot(np.full(len(values), place + 0.22), values, ".", color="0.35", markersize=4)


def feature_norm(grid: Grid) -> Figure:
    """Plot the squared norm of the pooled features by width, before and after training."""
    styles = style.line_styles(grid.all_scales)
    figure, axes = style.panels(1, 2, 4.2, 3.2, sharey=True)
    for panel, probe in zip(axes[0], (0, -1), strict=True):
        for scale in grid.scales:
            points = [
                (run.width, float(signal(record, "feature_norm2")[probe]))
                for run, record in grid.records.items()
                if run.scale == scale
            ]
            _over_width(panel, points, scale_label(scale), styles[scale])
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(grid.widths, [str(width) for width in grid.widths])
        panel.minorticks_off()
        panel.set_xlabel("width (channels)", fontsize=9)
        style.light_grid(panel)
    axes[0, 0].set_title("before the first step", fontsize=9)
    axes[0, 1].set_title("at the last probe, all learning rates", fontsize=9)
    axes[0, 0].set_ylabel("squared norm of the features", fontsize=9)
    return style.finish(figure)


def _over_width(
    axes: Axes, points: Sequence[tuple[int, float]], label: str, line_style: style.LineStyle
) -> None:
    finite = [(width, value) for width, value in points if np.isfinite(value)]
    widths = sorted({width for width, _ in finite})
    groups = [[v for w, v in finite if w == width] for width in widths]
    if not groups:
        return
    axes.plot(
        widths, [np.median(g) for g in groups], label=label, linewidth=2, **line_style
    )
    axes.fill_between(
        widths, [min(g) for g in groups], [max(g) for g in groups], alpha=0.12,
        color=line_style["color"],
    )  # fmt: skip


def forest(records: Records) -> Figure | None:
    """Plot failed and unstable shares after single changes, with Wilson intervals."""
    groups = [g for grid in main_grids(records) for g in _interventions(records, grid)]
    if not groups:
        return None
    heights = [len(rows) + 1 for _, rows in groups]
    figure = Figure(figsize=(9.5, 0.34 * sum(heights) + 1.2), layout="constrained")
    axes = figure.subplots(
        len(groups), 2, squeeze=False, sharex=True, height_ratios=heights
    )
    for line, (words, rows) in zip(axes, groups, strict=True):
        for panel, outcomes in zip(line, (FAILED, UNSTABLE), strict=True):
            _shares(panel, rows, outcomes)
            panel.set_title(f"{word_for(outcomes)}\n{words}", fontsize=9)
        line[1].set_yticklabels([])
    for panel in axes[-1]:
        panel.set_xlabel("share of the seeds", fontsize=9)
    return figure


Row = tuple[str, Records]
NO_CHANGES = {"data", "network", "width", "learning_rate"}  # but other cells or grids


def _interventions(records: Records, grid: Grid) -> list[tuple[str, list[Row]]]:
    """List each unscaled setting of a grid with all that change one thing about it."""
    groups = []
    settings = group_by(records, lambda run: run.setting)
    for base in settings_in(run for run in grid.records if run.scale == 1.0):
        rows = [("unchanged", settings[base])]
        for setting, runs in settings.items():
            change = single_change(setting, base)
            if change and not NO_CHANGES & set(change):
                rows.append((describe_fields(change), runs))
        if any(not words.startswith("scale ") for words, _ in rows[1:]):
            groups.append((cell_label(base).replace("\n", ", "), rows))
    return groups


def _shares(axes: Axes, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    for place, (_, records) in enumerate(rows):
        share = count_outcomes(records, outcomes)
        middle, (low, high) = share.count / share.total, share.interval
        axes.plot([low, high], [place, place], color=style.COLORS[1], linewidth=2)
        marker, color = ("D", style.COLORS[0]) if place == 0 else ("s", style.COLORS[1])
        axes.plot(middle, place, marker, color=color, markersize=7)
        axes.annotate(
            f"{share.count}/{share.total}", (1.02, place), fontsize=8, va="center",
            xycoords=("axes fraction", "data"), annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [words for words, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    style.light_grid(axes)
