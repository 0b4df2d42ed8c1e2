# SPDX-License-Identifier: Apache-2.0
"""The figure of remedies: changes of the narrow network with 8 replicas."""

from dataclasses import asdict
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.residual_scaling.design.runs import DEFAULTS, describe_fields
from experiments.residual_scaling.design.settings import STALE
from experiments.residual_scaling.judge.tables import runs_of
from experiments.residual_scaling.show.dead_share import MAX_STEPS
from experiments.residual_scaling.show.style import (
    TEXT,
    add_legend,
    color_of,
    new_figure,
    percent,
    tidy,
)

MIN_CHANGES = 8  # the figure of claims shows the few of other plans
# Descriptions of changed fields, of which those with a value come first.
CHANGES = {
    "scale": "scale {scale:g}",
    "replicas 1": "1 replica",
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


def draw(runs: pd.DataFrame) -> Figure | None:
    """Return a figure with one row per change of STALE, or None for few changes."""
    changes = _changes(runs)
    if len(changes) < MIN_CHANGES:
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


def _changes(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs that differ from STALE in one change, by description."""
    ignored = {"seed", "steps", "probe_every", "probe_first"}
    names = [name for name in DEFAULTS if name not in ignored]
    base, changes = asdict(STALE), {}
    similar = runs[(runs["network"] == "C") & (runs["steps"] <= MAX_STEPS)]
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
