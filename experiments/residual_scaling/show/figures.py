# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, in order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.residual_scaling.judge.tests import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    UNFINISHED,
)
from experiments.residual_scaling.show import dead_share, remedies, timelines
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
from inception_jax.training.stability import random_stability_limit, stability_limit

# Markers of verdicts and their fill.
VERDICT_MARKERS = {
    REPRODUCED: ("o", "black"),
    CONTRADICTED: ("X", "white"),
    UNDECIDED: ("d", "white"),
    UNFINISHED: ("s", "white"),
}
# Sign of the offset, symbol and alignment of the claimed direction of a difference.
ARROWS = {
    "above": (1, "\N{RIGHTWARDS ARROW}", "left"),
    "below": (-1, "\N{LEFTWARDS ARROW}", "right"),
}


@dataclass(frozen=True)
class Picture:
    """A figure with its texts."""

    name: str  # of its file, without ending
    title: str
    caption: str
    alt: str  # text alternative for readers who cannot see the figure
    figure: Figure


def draw_main(runs: pd.DataFrame) -> Picture | None:
    """Return the main figure, or None if no runs can be compared."""
    figure = dead_share.draw(runs)
    if figure is None:
        return None
    return Picture(
        "dead_share",
        "Dead channels by width, residual scale and kind of training",
        "Each dot is one run: the share of its channels before the average pool that are "
        "zero for every probe image after the last update. Dots of one width are shifted "
        "to the right by scale and seed, so that they do not hide each other.",
        "Dot plots of the share of dead channels against the number of channels, one panel "
        "for each kind of training, coloured by residual scale.",
        figure,
    )


def draw_others(
    runs: pd.DataFrame, probes: pd.DataFrame, claims: pd.DataFrame
) -> Iterator[Picture]:
    """Yield the other figures, except those without data."""
    runs = dead_share.on_digits(runs)
    figures = {
        "claims": _claims(claims),
        "training": timelines.training(runs, probes),
        "survival": timelines.survival(runs),
        "stability": _stability(runs),
        "remedies": remedies.draw(runs),
    }
    for name, figure in figures.items():
        if figure is not None:
            yield Picture(name, *TEXTS[name], figure)


# Title, caption and text alternative.
TEXTS = {
    "claims": (
        "The differences that the claims are about",
        "Median and 95 % interval of the first setting minus the second. An arrow shows on "
        "which side of the grey mark the difference lies if the claim is true. The verdict "
        "also depends on Holm's correction and on the conditions of some claims.",
        "Forest plot with one row for each claim about shares of channels.",
    ),
    "training": (
        "Dead channels and accuracy during training",
        "Thin lines are runs, thick lines their median. The accuracy is that on the probe "
        "images, with batch statistics.",
        "Line charts over updates: the share of dead channels above, the accuracy below, "
        "with and without residual scaling.",
    ),
    "survival": (
        "Runs that have not collapsed",
        "Kaplan-Meier estimates with 95 % intervals. A run leaves the curve at the first "
        "probe at which it has collapsed, even if it recovers later, so fewer runs may "
        "have collapsed at the end. Settings without a collapse are left out.",
        "Survival curves over updates, with and without residual scaling.",
    ),
    "stability": (
        "Predicted and observed death",
        "Learning rate times the curvature of the classifier's loss before the first "
        "update, divided by its stability limit for gradient descent with momentum and "
        "with gradients as old as the replicas make them. Each dot is one run.",
        "Scatter plot of dead channels against the ratio of curvature to its limit.",
    ),
    "remedies": (
        "Other changes of the narrow network with 8 replicas",
        "Each row changes one setting of the unscaled network. Dots are runs, black bars "
        "their means.",
        "Dot plots of dead channels and accuracy, one row for each change.",
    ),
}


PICTURES = ("dead_share", *TEXTS)  # names of all figures


def _claims(claims: pd.DataFrame) -> Figure | None:
    if claims.empty:
        return None
    shares = claims[
        claims["endpoint"].isin(["dead_share", "only_zeros"]) & np.isfinite(claims["low"])
    ]
    if shares.empty:
        return None
    figure = new_figure(0.5 * len(shares) + 1.1)
    axes = figure.subplots()
    rows = shares.to_dict("records")
    for y, row in enumerate(rows):
        marker, fill = VERDICT_MARKERS[row["verdict"]]
        axes.plot([row["low"], row["high"]], [y, y], color="black", linewidth=2)
        axes.plot(row["difference"], y, marker, color="black", markersize=8, mfc=fill)
        axes.plot([row["margin"]] * 2, [y - 0.3, y + 0.3], color="#888888", linewidth=1.5)
        sign, arrow, alignment = ARROWS[row["expected"]]
        axes.text(
            row["margin"] + sign * 0.01, y - 0.24, arrow, ha=alignment, va="center",
            color="#666666", fontsize=TEXT - 1,
        )  # fmt: skip
        axes.text(1.06, y, row["verdict"], va="center", fontsize=TEXT)
    labels = [f"{row['name']}\n{row['first']} minus {row['second']}" for row in rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(min(-0.25, shares["low"].min() - 0.05), 1.04)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel(
        "difference in points, of dead channels or of runs with only zeros", fontsize=TEXT
    )
    tidy(axes)
    return figure


def limit_of(momentum: float, replicas: int) -> float:
    """Return the stability limit of rate times curvature."""
    if replicas == 1:
        return stability_limit(momentum)
    return random_stability_limit(momentum, replicas)


def _stability(runs: pd.DataFrame) -> Figure | None:
    shown = runs[(runs["block"] != "concat") & (runs["network"] != "inception_v4")]
    shown = shown[shown["optimizer"].eq("rmsprop") & shown["stagger"].eq(0)]
    shown = shown[shown["warmup_steps"].eq(0) & shown["clip_norm"].isna()]
    shown = shown[shown["scale"].isin(SCALE_COLORS) & shown["classifier_rate"].eq(1)]
    if shown["curvature_at_start"].nunique() < 3:
        return None
    pairs = zip(shown["momentum"], shown["replicas"], strict=True)
    x = shown["learning_rate"] * shown["curvature_at_start"]
    x /= [limit_of(momentum, replicas) for momentum, replicas in pairs]
    figure = new_figure(4.8)
    axes = figure.subplots()
    for (network, scale), rows in shown.groupby(["network", "scale"]):
        for is_stale, part in rows.groupby(rows["replicas"] > 1):
            color = color_of(scale, network)
            axes.scatter(
                x[part.index], part["dead_share"], s=30, marker=NETWORKS[network][1],
                color=color if is_stale else "none", edgecolors=color, alpha=0.7,
            )  # fmt: skip
    axes.axvline(1, color="black", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel(
        "learning rate x curvature at the start / limit of stability "
        "(filled: with replicas)",
        fontsize=TEXT,
    )
    axes.set_ylabel("dead channels at the end", fontsize=TEXT)
    percent(axes)
    tidy(axes)
    for words, alignment in (
        ("stable in theory ", "right"),
        (" unstable in theory", "left"),
    ):
        axes.text(1, 1.02, words, ha=alignment, va="bottom", fontsize=TEXT,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    add_legend(figure, shown, networks=set(shown["network"]))
    return figure
