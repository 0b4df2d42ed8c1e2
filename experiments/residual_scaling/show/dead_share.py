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
from experiments.residual_scaling.run.generated import GENERATED
from experiments.residual_scaling.show.style import (
    NETWORKS,
    TEXT,
    add_legend,
    color_of,
    new_figure,
    percent,
    tidy,
)

# Fields in which the runs of the figure may differ; all others are those of NARROW or FULL.
AXES = {
    *("network", "width", "scale", "seed", "learning_rate", "replicas"),
    *("steps", "probe_every", "probe_first"),
}
MAX_STEPS = 240
STALE_REPLICAS = 4  # and more
LIMITS = 52, 3100  # of the horizontal axis
LABELS = 24_000  # its end in a panel in which networks are named
# Dots of a width are shifted to the right, by scale and seed, in octaves.
SHIFTS = {1.0: 0.03, 0.3: 0.17, 0.1: 0.31}
SPREAD = 0.1


def on_digits(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with "digits" for every data set that was not generated.

    A study trains on one data set, so settings can be found by name on any of them.
    """
    return runs.assign(data=runs["data"].where(runs["data"].isin(GENERATED), "digits"))


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Select short runs that differ only in width, scale, rate, replicas and network."""
    runs = on_digits(runs)
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
    """Return a figure with one dot per comparable run, or None if there is none.

    Each kind of training has a panel.
    """
    runs = comparable(runs)
    rate, replicas = runs["learning_rate"], runs["replicas"]
    is_paper = rate == PAPER_LEARNING_RATE
    stale = runs[is_paper & (replicas >= STALE_REPLICAS)]
    kinds = {
        "learning rate 0.045": runs[is_paper & (replicas == 1)],
        _stale_title(stale): stale,
        "learning rate 0.2": runs[(rate == 0.2) & (replicas == 1)],
    }
    kinds = {title: rows for title, rows in kinds.items() if len(rows)}
    if not kinds:
        return None
    named: set[str] = set()
    new_names = []  # of full networks, each in the first panel that has it
    for rows in kinds.values():
        full = rows[(rows["network"] != "C") & (rows["width"] > PAPER_WIDTH)]
        new_names.append(set(full["network"]) - named)
        named |= set(full["network"])
    octaves = [np.log2((LABELS if new else LIMITS[1]) / LIMITS[0]) for new in new_names]
    figure = new_figure(4.6)
    panels = figure.subplots(
        1, len(kinds), sharey=True, squeeze=False, width_ratios=octaves
    )[0]
    for panel, (title, rows), new in zip(panels, kinds.items(), new_names, strict=True):
        _draw_panel(panel, rows, title, new)
    panels[0].set_ylabel("dead channels before the pool", fontsize=TEXT)
    shown = pd.concat(kinds.values())
    add_legend(figure, shown, networks=set(shown["network"]))
    return figure


def _stale_title(runs: pd.DataFrame) -> str:
    """Name the numbers of replicas; dots of all but the smallest number are hollow."""
    if runs.empty:
        return ""
    fewest, *more = sorted(set(runs["replicas"]))
    hollow = f"\nhollow: {' or '.join(map(str, more))} replicas" if more else ""
    return f"learning rate 0.045,\n{fewest} replicas (stale gradients){hollow}"


def _draw_panel(panel: Axes, runs: pd.DataFrame, title: str, new: set[str]) -> None:
    panel.axvline(PAPER_WIDTH, color="black", linewidth=1, linestyle=":")
    panel.text(PAPER_WIDTH * 0.96, 0.66, "1000 filters", rotation=90, ha="right",
               va="center", fontsize=TEXT - 1)  # fmt: skip
    fewest = runs["replicas"].min()
    groups = runs.groupby(["network", "width", "scale", "replicas"], dropna=False)
    for (network, width, scale, replicas), rows in groups:
        # The shift is always to the right, so that no dot crosses the line.
        ranks = rows["seed"].rank(method="first") - 1
        shift = SHIFTS.get(scale, SHIFTS[1.0]) + SPREAD * ranks / max(1, len(rows) - 1)
        color = color_of(scale, network)
        panel.scatter(
            width * 2**shift, rows["dead_share"], marker=NETWORKS[network][1],
            s=18 if network == "C" else 24, alpha=0.75, linewidths=0.8, edgecolors=color,
            color=color if replicas == fewest else "none",
        )  # fmt: skip
    full = runs[runs["network"].isin(new) & (runs["width"] > PAPER_WIDTH)]
    _name_networks(panel, full)
    panel.set_xscale("log", base=2)
    panel.set_xlim(LIMITS[0], LABELS if new else LIMITS[1])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks([64, 256, 536, 1072, 2144], ["64", "256", "536", "1072", "2144"])
    panel.set_xlabel("width: channels before the pool", fontsize=TEXT - 1)
    panel.set_title(title, fontsize=TEXT)
    percent(panel)
    tidy(panel)


def _name_networks(panel: Axes, runs: pd.DataFrame) -> None:
    """Write the names of full networks to the right of their highest dots."""
    widest = runs[runs["width"] == runs.groupby("network")["width"].transform("max")]
    tops = widest.groupby("network")["dead_share"].max().sort_values(ascending=False)
    y = 1.1
    for i, (network, top) in enumerate(tops.items()):
        # Each name has two lines. It moves down if it would touch the one above, and
        # stops where the others still fit below it.
        y = max(min(top, y - 0.135), 0.03 + 0.135 * (len(tops) - 1 - i))
        x = float(widest.loc[widest["network"] == network, "width"].max())
        name = NETWORKS[network][0].replace(" as", "\nas").replace(", ", "\n")
        panel.annotate(
            name, (x * 1.12, top), xytext=(3300, y), fontsize=TEXT - 1, va="center",
            linespacing=1.0, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.7,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
