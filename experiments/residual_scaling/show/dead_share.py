# SPDX-License-Identifier: Apache-2.0
"""The main figure: the share of dead channels against the width of a network."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.residual_scaling.design.runs import PAPER_LEARNING_RATE, PAPER_WIDTH
from experiments.residual_scaling.design.settings import FULL, NARROW
from experiments.residual_scaling.show.style import (
    NETWORKS,
    SCALE_COLORS,
    TEXT,
    add_legend,
    color_of,
    new_figure,
    percent,
    tidy,
)

# Fields in which the runs of the figure may differ; all others are those of NARROW or FULL.
AXES = {
    *("network", "width", "scale", "seed", "learning_rate", "replicas", "stagger"),
    *("steps", "probe_every", "probe_first"),
}
MAX_STEPS = 240
NEAR_MIN, NEAR_MAX = 50, 3300  # limits of the horizontal axis
SHORT_NAMES = {
    "inception_resnet_v2_paper": "v2",
    "inception_resnet_v1": "v1",
    "inception_resnet_v2": "v2 as published",
    "inception_v4": "v4",
}


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Select short runs that differ only in width, scale, rate, replicas and network."""
    chosen = runs["steps"] <= MAX_STEPS
    is_narrow = runs["network"] == "C"
    for name, narrow in asdict(NARROW).items():
        if name in AXES:
            continue
        full, column = asdict(FULL)[name], runs[name]
        expected = np.where(is_narrow, narrow, full) if narrow is not None else None
        chosen &= column.isna() if expected is None else column == expected
    return runs[chosen]


def draw(runs: pd.DataFrame) -> Figure | None:
    """Draw one dot per run, in a panel for each kind of training; None without runs."""
    runs = comparable(runs)
    rate, replicas = runs["learning_rate"], runs["replicas"]
    is_paper = rate == PAPER_LEARNING_RATE
    kinds = {
        "learning rate 0.045": runs[is_paper & (replicas == 1)],
        "learning rate 0.045, 8 replicas": runs[is_paper & (replicas == 8)],
        "learning rate 0.2": runs[(rate == 0.2) & (replicas == 1)],
    }
    kinds = {title: rows for title, rows in kinds.items() if len(rows)}
    if not kinds:
        return None
    figure = new_figure(3.9 * len(kinds) + 0.8, 4.6)
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, rows) in zip(panels, kinds.items(), strict=True):
        _draw_panel(panel, rows, title)
    panels[0].set_ylabel("dead channels before the pool", fontsize=TEXT)
    shown = pd.concat(kinds.values())
    scales = [scale for scale in SCALE_COLORS if scale in set(shown["scale"])]
    add_legend(figure, scales, [name for name in NETWORKS if name in set(shown["network"])])
    return figure


def _draw_panel(panel: Axes, runs: pd.DataFrame, title: str) -> None:
    panel.axvline(PAPER_WIDTH, color="black", linewidth=1, linestyle=":")
    panel.text(PAPER_WIDTH * 0.96, 0.5, "1000 filters", rotation=90, ha="right",
               va="center", fontsize=TEXT - 1)  # fmt: skip
    for (network, scale), rows in runs.groupby(["network", "scale"], dropna=False):
        # Scales and seeds stand side by side, so that no dot hides another. The shift is
        # too small to cross the line at 1000 filters.
        shift = {1.0: 0.0, 0.3: 0.13, 0.1: 0.26}.get(scale, 0.0)
        seeds = rows["seed"].rank(method="dense") - 1
        x = rows["width"] * 2 ** (shift + 0.012 * seeds)
        panel.scatter(
            x,
            rows["dead_share"],
            marker=NETWORKS[network][1],
            s=30 if network == "C" else 42,
            color=color_of(scale, network),
            alpha=0.75,
            linewidths=0,
        )
    for (network, width), rows in runs[runs["network"] != "C"].groupby(
        ["network", "width"]
    ):
        if width > PAPER_WIDTH:
            top = rows.loc[rows["dead_share"].idxmax()]
            panel.annotate(
                SHORT_NAMES[network], (top["width"] * 1.25, top["dead_share"]),
                xytext=(4, 0), textcoords="offset points", fontsize=TEXT - 1, va="center",
            )  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_xlim(NEAR_MIN, NEAR_MAX)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks([64, 256, 536, 1072, 2144], ["64", "256", "536", "1072", "2144"])
    panel.set_xlabel("width (channels before the pool)", fontsize=TEXT)
    panel.set_title(title, fontsize=TEXT + 1)
    percent(panel)
    tidy(panel)
