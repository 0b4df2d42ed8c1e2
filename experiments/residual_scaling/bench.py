# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.bench`: time saved by sharing compiled programs.

Trains the same runs, which differ in scale and learning rate, with one compilation for all
and with one for each, alternately in one process.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.residual_scaling.plans import Group, Plan, grid
from experiments.residual_scaling.progress import Progress
from experiments.residual_scaling.runner import Lab, train_runs
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.study import Study
from inception_jax.runtime.devices import describe


@dataclass(frozen=True)
class Options:
    """Compare runs per minute with one compilation for all runs and with one for each."""

    runs: Annotated[int, tyro.conf.arg(aliases=["--arms"])] = 8
    rounds: int = 3
    width: int = 64
    steps: int = 80
    # Folder of prepared data sets. Default: the one of TFDS.
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if min(self.runs, self.rounds, self.width, self.steps) < 1:
            raise ValueError("runs, rounds, width and steps must be 1 or more.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and measure."""
    prog = "python -m experiments.residual_scaling.bench"
    measure(tyro.cli(Options, prog=prog, args=arguments))


def measure(options: Options) -> None:
    """Print runs per minute of both ways for each round, and their ratio."""
    # Otherwise programs that an earlier process compiled would be loaded.
    jax.config.update("jax_enable_compilation_cache", False)
    base = Run(width=options.width, steps=options.steps)
    rates = [0.2 * 0.9**i for i in range(options.runs)]
    runs = grid(base, learning_rate=rates)
    study = Study(Plan("", (Group("", runs, 1),), 60.0), Path(), None, options.data_dir)
    Lab(study).data(base, "train")  # prepared before the clock starts
    ratios = []
    for number in range(1, options.rounds + 1):
        shared = _runs_per_minute(study, runs, together=True)
        naive = _runs_per_minute(study, runs, together=False)
        ratios.append(shared / naive)
        print(
            f"round {number}: one compilation {shared:.1f} runs/minute, one for each run "
            f"{naive:.1f}: {ratios[-1]:.2f} times",
            flush=True,
        )
    print(
        f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{options.runs} runs of width {options.width}, {options.steps} steps, on "
        f"{describe(Lab(study).devices)}, jax {jax.__version__}"
    )


def _runs_per_minute(study: Study, runs: Sequence[Run], *, together: bool) -> float:
    start = time.perf_counter()
    lab = None
    with Progress(runs, 1, float("inf")) as progress:
        while chosen := progress.next():
            if lab is None or not together:
                jax.clear_caches()
                lab = Lab(study)
            progress.start(chosen)
            train_runs(lab, lab.programs(chosen[0]), chosen, progress)
    return 60 * len(runs) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
