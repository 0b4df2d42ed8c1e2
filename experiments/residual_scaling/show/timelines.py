# SPDX-License-Identifier: Apache-2.0
"""Figures over the updates of a run, with and without residual scaling."""

from dataclasses import replace

import pandas as pd
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.residual_scaling.design.settings import (
    FULL,
    HARMLESS,
    LATE,
    SHORTER,
    STALE,
    V1,
)
from experiments.residual_scaling.judge.tables import runs_of
from experiments.residual_scaling.show.style import (
    TEXT,
    add_legend,
    color_of,
    new_figure,
    percent,
    tidy,
)

SHOWN_SCALES = (1.0, 0.1)
# Settings whose runs are shown over time, with their titles of two lines.
TIMED = {
    "Inception-ResNet-v2\nas drawn": FULL,
    "Inception-ResNet-v1\n": V1,
    "narrow network,\n8 replicas": STALE,
    "narrow network,\n8 replicas, 1,600 updates": replace(
        STALE, steps=1600, probe_every=20
    ),
    "v2 as drawn, 8 replicas,\nblocks start as identities": HARMLESS,
    "v2 as drawn,\nblocks start as identities": replace(
        FULL, init_gain=0.0, steps=3000, probe_every=50
    ),
    "narrow network,\nblocks start as identities": LATE,
}
MAX_TIMED, MAX_SURVIVAL = 4, 6  # panels


def _timed(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of the settings of `TIMED` that have both scales, by title."""
    timed: dict[str, pd.DataFrame] = {}
    for title, setting in TIMED.items():
        for base in (setting, replace(setting, **SHORTER)):
            parts = [runs_of(runs, replace(base, scale=scale)) for scale in SHOWN_SCALES]
            if all(len(part) for part in parts):
                timed.setdefault(title, pd.concat(parts))
    return timed


def training(runs: pd.DataFrame, probes: pd.DataFrame) -> Figure | None:
    """Return a figure of dead channels and accuracy, or None if nothing can be shown.

    It has up to four settings that were run at both scales.
    """
    timed = dict(list(_timed(runs).items())[:MAX_TIMED])
    if not timed:
        return None
    figure = new_figure(4.8)
    rows = figure.subplots(2, len(timed), sharex="col", sharey="row", squeeze=False)
    for (top, bottom), (title, chosen) in zip(rows.T, timed.items(), strict=True):
        lines = probes.merge(chosen[["id", "scale"]], on="id")
        for scale in SHOWN_SCALES:
            of_scale = lines[lines["scale"] == scale]
            for axes, name in ((top, "pool_dead"), (bottom, "accuracy")):
                table = of_scale.pivot_table(index="step", columns="id", values=name)
                color = color_of(scale)
                axes.plot(table.index, table, color=color, linewidth=0.7, alpha=0.4)
                axes.plot(table.index, table.median(axis=1), color=color, linewidth=2.5)
        top.set_title(title, fontsize=TEXT)
        for axes in (top, bottom):
            _over_updates(axes)
        bottom.set_xlabel("updates", fontsize=TEXT)
    rows[0, 0].set_ylabel("dead channels", fontsize=TEXT)
    rows[1, 0].set_ylabel("accuracy", fontsize=TEXT)
    add_legend(figure, pd.concat(timed.values()))
    return figure


def survival(runs: pd.DataFrame) -> Figure | None:
    """Return a figure of the runs that have not collapsed, or None if none collapsed."""
    collapsed = {
        title: chosen
        for title, chosen in _timed(runs).items()
        if chosen["collapse_step"].notna().any()
    }
    collapsed = dict(list(collapsed.items())[:MAX_SURVIVAL])
    if not collapsed:
        return None
    columns = len(collapsed) if len(collapsed) <= 4 else 3
    num_rows = -(-len(collapsed) // columns)
    figure = new_figure(2.7 * num_rows + 0.5)
    panels = figure.subplots(num_rows, columns, sharey=True, squeeze=False).ravel()
    for panel in panels[len(collapsed) :]:
        panel.remove()
    for panel, (title, chosen) in zip(panels, collapsed.items(), strict=False):
        for scale in SHOWN_SCALES:
            part = chosen[chosen["scale"] == scale]
            fitter = KaplanMeierFitter()
            times = part["collapse_step"].fillna(part["steps"])
            fitter.fit(times, part["collapse_step"].notna())
            fitter.plot_survival_function(
                ax=panel, color=color_of(scale), linewidth=2.5, legend=False
            )
            # After the last collapse no run is left, or those that remain reach the end.
            last = fitter.survival_function_.iloc[-1, 0]
            panel.plot([times.max(), chosen["steps"].max()], [last, last],
                       color=color_of(scale), linewidth=2.5)  # fmt: skip
        panel.set_title(title, fontsize=TEXT)
        _over_updates(panel)
        panel.set_xlabel("updates", fontsize=TEXT)
    for panel in panels[::columns]:
        panel.set_ylabel("not collapsed", fontsize=TEXT)
    add_legend(figure, pd.concat(collapsed.values()))
    return figure


def _over_updates(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    percent(axes)
    tidy(axes)
