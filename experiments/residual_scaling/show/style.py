# SPDX-License-Identifier: Apache-2.0
"""Style of the figures: a scale has one colour and a network one marker everywhere."""

from collections.abc import Iterable

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's palette, which the colour-blind can distinguish.
SCALE_COLORS = {1.0: "#D55E00", 0.3: "#009E73", 0.1: "#0072B2"}
OTHER_COLOR = "#767676"
NETWORKS = {  # names and markers
    "C": ("narrow network", "o"),
    "inception_resnet_v2_paper": ("Inception-ResNet-v2 as drawn", "D"),
    "inception_resnet_v1": ("Inception-ResNet-v1", "^"),
    "inception_resnet_v2": ("Inception-ResNet-v2 as published", "v"),
    "inception_v4": ("Inception-v4, no residuals", "s"),
}
TEXT = 10  # points
WIDTH = 9.375  # inches: 900 pixels of a page, so that text keeps its size


def color_of(scale: float, network: str = "C") -> str:
    """Return the colour of a residual scale; grey for a network without residuals."""
    if network == "inception_v4":
        return OTHER_COLOR
    return SCALE_COLORS.get(scale, OTHER_COLOR)


def new_figure(height: float) -> Figure:
    """Create a figure of a height in inches, as wide as a page."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def percent(axes: Axes, direction: str = "y") -> None:
    """Show an axis as a percentage from 0 to 100."""
    axes.set(**{f"{direction}lim": (-0.04, 1.04)})
    axis = axes.yaxis if direction == "y" else axes.xaxis
    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def tidy(axes: Axes) -> None:
    """Draw thin grid lines behind the data, and no frame."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=TEXT - 1)
    sns.despine(ax=axes)


def add_legend(
    figure: Figure, runs: pd.DataFrame, *, networks: Iterable[str] = (), ncols: int = 4
) -> None:
    """Explain below a figure the colours of its runs, and the markers of networks."""
    has_residuals = runs["network"] != "inception_v4"
    scales = set(runs.loc[has_residuals, "scale"])
    labels = {SCALE_COLORS[s]: f"scale {s:g}" for s in SCALE_COLORS if s in scales}
    other = ["another scale"] if scales - set(SCALE_COLORS) else []
    other += [] if has_residuals.all() else ["no residuals"]
    if other:
        labels[OTHER_COLOR] = " or ".join(other)
    handles = [
        Line2D([], [], marker="o", ls="", color=color, label=label)
        for color, label in labels.items()
    ]
    for name, (label, marker) in NETWORKS.items():
        if name in networks:
            handles.append(
                Line2D([], [], marker=marker, ls="", color="black", mfc="none", label=label)
            )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=ncols, fontsize=TEXT,
        frameon=False, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip
