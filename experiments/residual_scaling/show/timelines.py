# SPDX-License-Identifier: Apache-2.0
"""Figures over the updates of a run, with and without residual scaling."""

from dataclasses import replace

import pandas as pd
from lifelines import KaplanMeierFitter
from matplotlib.figure import Figure

from experiments.residual_scaling.design.runs import Run
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
# Settings whose runs are shown over time, with their titles.
TIMED = {
    "Inception-ResNet-v2 as drawn": FULL,
    "Inception-ResNet-v1": V1,
    "narrow network, 8 replicas": STALE,
    "narrow network, 8 replicas,\n1,600 updates": replace(
        STALE, steps=1600, probe_every=20
    ),
    "v2 as drawn, 8 replicas,\nharmless start": HARMLESS,
    "v2 as drawn, harmless start": replace(FULL, init_gain=0.0, steps=3000, probe_every=50),
    "narrow network, harmless start": LATE,
}


def _timed(runs: pd.DataFrame) -> dict[str, tuple[Run, pd.DataFrame]]:
    """Return the settings of `TIMED` that have runs of both scales, by title."""
    found = {}
    for title, setting in TIMED.items():
        for base in (setting, replace(setting, **SHORTER)):
            parts = [runs_of(runs, replace(base, scale=scale)) for scale in SHOWN_SCALES]
            if all(len(part) for part in parts):
                found.setdefault(title, (base, pd.concat(parts)))
    return found


def training(runs: pd.DataFrame, probes: pd.DataFrame) -> Figure | None:
    """Plot dead channels above accuracy, for up to four settings; None without runs."""
    timed = list(_timed(runs).items())[:4]
    if not timed:
        return None
    figure = new_figure(3.4 * len(timed) + 0.8, 5.2)
    rows = figure.subplots(2, len(timed), sharex="col", sharey="row", squeeze=False)
    for (top, bottom), (title, (_, chosen)) in zip(rows.T, timed, strict=True):
        lines = probes.merge(chosen[["id", "scale"]], on="id")
        for scale in SHOWN_SCALES:
            of_scale = lines[lines["scale"] == scale]
            for axes, name in ((top, "pool_dead"), (bottom, "accuracy")):
                table = of_scale.pivot_table(index="step", columns="id", values=name)
                color = color_of(scale)
                axes.plot(table.index, table, color=color, linewidth=0.7, alpha=0.4)
                axes.plot(table.index, table.median(axis=1), color=color, linewidth=2.5)
        top.set_title(title, fontsize=TEXT)
        bottom.set_xlabel("updates", fontsize=TEXT)
        for axes in (top, bottom):
            percent(axes)
            tidy(axes)
    rows[0, 0].set_ylabel("dead channels", fontsize=TEXT)
    rows[1, 0].set_ylabel("accuracy", fontsize=TEXT)
    add_legend(figure, pd.concat(chosen for _, chosen in panels_of(timed)))
    return figure


def survival(runs: pd.DataFrame) -> Figure | None:
    """Plot the share of runs that have not collapsed; None if none collapsed."""
    timed = [
        (title, chosen)
        for title, (_, chosen) in _timed(runs).items()
        if chosen["collapse_step"].notna().any()
    ]
    if not timed:
        return None
    figure = new_figure(3.2 * len(timed) + 0.8, 3.4)
    panels = figure.subplots(1, len(timed), sharey=True, squeeze=False)[0]
    for panel, (title, chosen) in zip(panels, timed, strict=True):
        for scale in SHOWN_SCALES:
            part = chosen[chosen["scale"] == scale]
            fitter = KaplanMeierFitter()
            times = part["collapse_step"].fillna(part["steps"])
            fitter.fit(times, part["collapse_step"].notna())
            fitter.plot_survival_function(
                ax=panel, color=color_of(scale), linewidth=2.5, legend=False
            )
        panel.set_title(title, fontsize=TEXT)
        panel.set_xlabel("updates", fontsize=TEXT)
        percent(panel)
        tidy(panel)
    panels[0].set_ylabel("not collapsed", fontsize=TEXT)
    add_legend(figure, pd.concat(chosen for _, chosen in panels_of(timed)))
    return figure
