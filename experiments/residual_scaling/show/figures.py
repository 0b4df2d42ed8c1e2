# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.residual_scaling.design.runs import DEFAULTS, describe_fields
from experiments.residual_scaling.design.settings import STALE
from experiments.residual_scaling.judge.tables import runs_of
from experiments.residual_scaling.judge.tests import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    UNFINISHED,
)
from experiments.residual_scaling.show import dead_share, timelines
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
# Descriptions of changed fields, of which those with a value come first.
CHANGES = {
    "scale": "scale {scale:g}",
    "replicas": "{replicas} replicas",
    "depth": "{depth} blocks",
    "width": "{width} channels",
    "learning_rate": "learning rate {learning_rate:g}",
    "pool_norm before_relu": "batch norm before the last ReLU",
    "pool_norm after_relu": "batch norm after the last ReLU",
    "warmup": "linear warm-up over {warmup_steps} updates",
    "warmup_steps": "{warmup_steps} updates at 0.00001",
    "clip_norm": "gradients clipped at norm {clip_norm:g}",
    "momentum": "momentum {momentum:g}",
    "optimizer momentum": "momentum instead of RMSProp",
    "classifier_rate": "classifier's rate x {classifier_rate:g}",
    "linear_rate": "rate of linear 1x1 convolutions x {linear_rate:g}",
    "init_gain": "initial linear 1x1 weights x {init_gain:g}",
    "learned_scale scalar": "learned scale, initially {learned_scale_init:g}",
    "learned_scale channel": "learned scale per channel, initially {learned_scale_init:g}",
    "residual_norm": "batch norm after linear 1x1 convolutions",
    "activation leaky_relu": "leaky ReLU after the sum",
    "activation pre": "ReLU before the branches, none after the sum",
    "head published": "head as published",
    "block v2": "blocks of Fig. 19",
    "block concat": "concatenated branches",
    "stagger": "replicas start {stagger} updates apart",
}
WARM_UPS = ({"warmup_steps"}, {"warmup", "warmup_steps"})


@dataclass(frozen=True)
class Picture:
    """A figure with its texts."""

    name: str  # of its file, without ending
    title: str
    caption: str
    alt: str  # text alternative for readers who cannot see the figure
    figure: Figure


def draw_main(runs: pd.DataFrame) -> Picture | None:
    """Draw dead channels against width; None without comparable runs."""
    figure = dead_share.draw(runs)
    return figure and Picture(
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
    """Draw the other figures; those without data are left out."""
    runs = dead_share.on_digits(runs)
    figures = {
        "claims": _claims(claims),
        "training": timelines.training(runs, probes),
        "survival": timelines.survival(runs),
        "stability": _stability(runs),
        "remedies": _remedies(runs),
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
        "probe at which it has collapsed. Settings without a collapse are left out.",
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
        arrow = (
            "\N{RIGHTWARDS ARROW}" if row["expected"] == "above" else "\N{LEFTWARDS ARROW}"
        )
        is_right = row["expected"] == "above"
        axes.text(row["margin"] + (0.01 if is_right else -0.01), y - 0.24, arrow,
                  ha="left" if is_right else "right", va="center", color="#666666",
                  fontsize=TEXT - 1)  # fmt: skip
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


def _changes(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs that differ from STALE in one change, by description."""
    ignored = {"seed", "steps", "probe_every", "probe_first"}
    names = [name for name in DEFAULTS if name not in ignored]
    base, changes = asdict(STALE), {}
    similar = runs[(runs["network"] == "C") & (runs["steps"] <= dead_share.MAX_STEPS)]
    for _, rows in similar.groupby(names, dropna=False):
        values = rows.iloc[0]
        changed = {
            name: values[name]
            for name in names
            if not (
                values[name] == base[name] or (base[name] is None and pd.isna(values[name]))
            )
        }
        # Two fields count as one change if the second has no meaning without the first.
        main = {n.removesuffix("_init").removesuffix("_steps") for n in changed}
        if len(main) == 1 or set(changed) in WARM_UPS:
            changes[_words(changed, values.to_dict())] = rows
    return changes


def _words(changed: dict[str, Any], values: dict[str, Any]) -> str:
    """Describe a change for a reader who does not know the fields of a run."""
    field, value = next(iter(changed.items()), ("", ""))
    template = CHANGES.get(f"{field} {value}") or CHANGES.get(field)
    if template is None:
        return describe_fields(changed).replace("$", r"\$")  # no formula of matplotlib's
    return template.format(**values)


def _remedies(runs: pd.DataFrame) -> Figure | None:
    changes = _changes(runs)
    if len(changes) < 8:
        return None
    rows = changes | {"no change": runs_of(runs, STALE)}
    rows = {words: part for words, part in rows.items() if len(part)}
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["dead_share"].mean()))
    figure = new_figure(0.28 * len(rows) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for panel, name, label in (
        (left, "dead_share", "dead channels"),
        (right, "test_accuracy", "test accuracy"),
    ):
        for y, part in enumerate(rows.values()):
            color = color_of(part["scale"].iloc[0])
            panel.plot(part[name], [y] * len(part), "o", ms=5, color=color, alpha=0.5)
            panel.plot(part[name].mean(), y, "|", color="black", markersize=14, mew=2)
        panel.set_xlabel(label, fontsize=TEXT)
        percent(panel, "x")
        tidy(panel)
    left.set_yticks(range(len(rows)), list(rows))
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.get_yticklabels()[list(rows).index("no change")].set_fontweight("bold")
    add_legend(figure, pd.concat(rows.values()))
    return figure


def settings_in(runs: pd.DataFrame) -> Sequence[tuple[str, pd.DataFrame]]:
    """Return the runs of each setting with its description, in the order of the table."""
    names = [name for name in DEFAULTS if name != "seed"]
    groups = []
    for _, rows in runs.groupby(names, dropna=False, sort=False):
        values = rows.iloc[0][["width", "scale", "learning_rate"]].to_dict()
        values |= {
            name: rows.iloc[0][name]
            for name in names
            if not pd.isna(rows.iloc[0][name]) and rows.iloc[0][name] != DEFAULTS[name]
        }
        if pd.isna(values["scale"]):
            values["scale"] = None
        groups.append((describe_fields(values), rows))
    return groups
