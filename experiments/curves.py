# SPDX-License-Identifier: Apache-2.0
"""Draw Figs 21 to 26, error over epochs: `python -m experiments.curves RUN...`.

The errors are those of the averaged weights in the metrics.jsonl of the runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper import CURVES, TABLES, Curves
from inception_jax.runtime.stopping import run_command
from inception_jax.storage.files import read_json_lines
from inception_jax.storage.run_folder import METRICS_FILE, RunRecord, read_record
from inception_jax.text import one_line, printable
from inception_jax.training.metrics import means

# Okabe and Ito's colours suit colour-blind readers; dashes suit print without colour.
STYLES = {
    "inception_v3": ("#000000", (0, (1, 1))),
    "inception_resnet_v1": ("#E69F00", "--"),
    "inception_v4": ("#0072B2", "-."),
    "inception_resnet_v2": ("#D55E00", "-"),
}


@dataclass(frozen=True)
class Options:
    """Draw Figs 21 to 26 from runs of the four networks."""

    # Run folders, all on the same data.
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # PNG file to write.
    out: Path = Path("runs/curves.png")

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one run folder, such as runs/digits.")


@dataclass(frozen=True)
class Run:
    """Errors of one run, in percent, at each of its evaluations."""

    record: RunRecord
    epochs: np.ndarray
    errors: dict[str, np.ndarray]  # keyed by "top1" and "top5"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        options = tyro.cli(Options, prog="python -m experiments.curves", args=arguments)
        draw([read_run(path) for path in options.runs], options.out)
        print(f"Wrote {printable(options.out)}")

    return run_command("experiments.curves", action, if_interrupted="nothing was written")


def read_run(path: Path) -> Run:
    """Read the evaluations of a run.

    Raises ValueError if there are none, or if no figure shows the network.
    """
    record = read_record(path)
    if record.config.network not in STYLES:
        raise ValueError(
            f"{path} trained {record.config.network}; Figs 21 to 26 show "
            f"{', '.join(STYLES)}."
        )
    lines = [r for r in read_json_lines(path / METRICS_FILE) if r["kind"] == "eval"]
    if not lines:
        raise ValueError(f"{path} holds no evaluations yet.")
    accuracies = [means(line["ema"]) for line in lines]
    errors = {
        name: np.array([100 * (1 - accuracy[name]) for accuracy in accuracies])
        for name in ("top1", "top5")
    }
    return Run(record, np.array([line["epoch"] for line in lines]), errors)


def draw(runs: Sequence[Run], out: Path) -> None:
    """Draw a panel for each figure; several runs of a network share a line style.

    Raises ValueError if the runs are on different data.
    """
    datasets = sorted({run.record.config.data for run in runs})
    if len(datasets) > 1:
        raise ValueError(
            f"runs on different data ({', '.join(datasets)}) cannot share a figure."
        )
    on_imagenet = datasets == ["imagenet2012"]
    figure = Figure(figsize=(10, 11), layout="constrained")
    panels = figure.subplots(3, 2).flat
    for axes, (number, curves) in zip(panels, CURVES.items(), strict=True):
        _draw_panel(axes, number, curves, runs, on_imagenet)
    count = runs[0].record.num_eval
    title = (
        f"Error on {one_line(datasets[0])} ({count} images, single crop, averaged weights)"
    )
    if not on_imagenet:
        title += "\nnot the paper's data: compare shapes, not values"
    # A dollar sign in the name of a folder does not begin a formula.
    figure.suptitle(title, parse_math=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def _draw_panel(
    axes: Axes, number: int, curves: Curves, runs: Sequence[Run], on_imagenet: bool
) -> None:
    for name in curves.networks:
        color, dashes = STYLES[name]
        runs_of_network = [run for run in runs if run.record.config.network == name]
        for i, run in enumerate(runs_of_network):
            axes.plot(
                run.epochs,
                run.errors[curves.metric],
                color=color,
                linestyle=dashes,
                marker="o",
                markersize=3,
                label=None if i else name,
            )
        if not runs_of_network:
            axes.plot([], [], color=color, linestyle=dashes, label=f"{name}: not run")
        if on_imagenet:
            row = next(row for row in TABLES[2].rows if row.networks == (name,))
            axes.axhline(getattr(row, curves.metric), color=color, linewidth=0.8, alpha=0.5)
    axes.set_title(f"Fig. {number}. {curves.title}", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("error (%)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    raise SystemExit(main())
