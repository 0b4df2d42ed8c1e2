# SPDX-License-Identifier: Apache-2.0
"""The share of dead channels against the width of a network, as a figure.

`python -m experiments.residual_scaling.dead_share` draws it from the tables of the plans
cpu and full.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from experiments.residual_scaling.figures.style import COLORS, light_grid, percent
from experiments.residual_scaling.runs import FULL_WIDTHS, PAPER_WIDTH, Run

RESULTS = Path(__file__).parent / "results"
PROG = "python -m experiments.residual_scaling.dead_share"
SCALES = {1.0: COLORS[0], 0.3: COLORS[2], 0.1: COLORS[1]}
# The C blocks on 8x8 digits, and the networks of the paper.
MARKERS = {"C": "o"} | dict(zip(FULL_WIDTHS, "D^vs", strict=True))
NAMES = {
    "C": "C blocks, 16 filters per branch",
    "inception_resnet_v2_paper": "Inception-ResNet-v2 as drawn in the paper",
    "inception_resnet_v1": "Inception-ResNet-v1",
    "inception_resnet_v2": "Inception-ResNet-v2 as published",
    "inception_v4": "Inception-v4, no residuals",
}
# Fields that may differ within the figure; all others have the default values of a run or,
# for a network of the paper, those of the plan full.
AXES = {"width", "scale", "seed", "learning_rate", "replicas", "network", "steps"}


def read_tables(cpu: Path, full: Path) -> pd.DataFrame:
    """Return the runs of both plans whose dead shares can be compared, one per row."""
    narrow = pd.read_csv(cpu)
    fixed = {
        name: value
        for name, value in asdict(Run()).items()
        if name in narrow and name not in AXES and value is not None
    }
    narrow = narrow[(narrow[list(fixed)] == pd.Series(fixed)).all(axis=1)]
    narrow = narrow[narrow["clip_norm"].isna() & (narrow["steps"] == 80)]
    wide = pd.read_csv(full)
    wide = wide[(wide["stagger"] == 0) & (wide["init_gain"] == 1)]
    return pd.concat([narrow.assign(replicas=1), wide], ignore_index=True)


def draw(runs: pd.DataFrame) -> Figure:
    """Draw one dot per run, in a panel for each kind of training."""
    synchronous, paper_rate = runs["replicas"] == 1, runs["learning_rate"] == 0.045
    chosen = {
        "learning rate 0.045": synchronous & paper_rate & (runs["steps"] == 80),
        "learning rate 0.045, 8 replicas": ~synchronous & paper_rate,
        "learning rate 0.2": synchronous & (runs["learning_rate"] == 0.2),
    }
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(chosen), sharex=True, sharey=True)
    for panel, (title, rows) in zip(panels, chosen.items(), strict=True):
        _draw_panel(panel, runs[rows], title)
    panels[0].set_ylabel("share of channels before the pool\nthat are zero on every image")
    handles = [
        mpl.lines.Line2D([], [], marker="o", ls="", color=color, label=f"scale {scale:g}")
        for scale, color in SCALES.items()
    ] + [
        mpl.lines.Line2D([], [], marker=MARKERS[n], ls="", color="grey", label=NAMES[n])
        for n in MARKERS
        if n in set(runs["network"])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_panel(panel: Axes, runs: pd.DataFrame, title: str) -> None:
    for number, (scale, color) in enumerate(SCALES.items()):
        for network, marker in MARKERS.items():
            rows = runs[(runs["scale"] == scale) & (runs["network"] == network)]
            # Scales and seeds are drawn side by side, moved to the right only, so that no
            # dot crosses the line at 1000 filters.
            shift = 1.1**number * 1.006 ** (rows["seed"] % 10)
            size = 22 if network == "C" else 34
            panel.scatter(
                rows["width"] * shift,
                rows["final_pool_dead"],
                s=size,
                c=color,
                marker=marker,
                alpha=0.7,
                linewidths=0,
            )
    panel.axvline(PAPER_WIDTH, color="black", lw=0.8, ls=":")
    panel.annotate("1000 filters", (PAPER_WIDTH, 0.5), fontsize=8, ha="right", rotation=90)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xticks([64, 256, 1024, 2144])
    panel.set_xlabel("channels before the pool")
    panel.set_title(title, fontsize=10)
    percent(panel)
    light_grid(panel)


def main(
    cpu: Path = RESULTS / "runs.csv",
    full: Path = RESULTS / "full" / "runs.csv",
    out: Path = RESULTS / "full" / "dead_share.png",
) -> int:
    """Draw the figure from the tables in `results`, or from others.

    Args:
        cpu: The table runs.csv of the plan cpu.
        full: The table runs.csv of the plan full.
        out: PNG file to write.
    """
    try:
        draw(read_tables(cpu, full)).savefig(out, dpi=110)
    except OSError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main, prog=PROG))
