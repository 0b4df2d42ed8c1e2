# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.bench`: what one program for all arms saves.

The same arms, whose scales and learning rates differ, with one compilation for all and
with one for each, in turns and in one process.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.plans import Group, Plan, grid
from experiments.residual_scaling.progress import Progress
from experiments.residual_scaling.runner import Lab, train_arms
from experiments.residual_scaling.study import Study
from inception_jax.runtime.hardware import describe


@dataclass(frozen=True)
class Options:
    """Arms per minute with one compilation for all, against one for each."""

    arms: int = 8
    rounds: int = 3
    width: int = 64
    steps: int = 80
    # Folder of prepared data sets; default: TFDS's own.
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if min(self.arms, self.rounds, self.width, self.steps) < 1:
            raise ValueError("arms, rounds, width and steps must be 1 or more.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line says."""
    prog = "python -m experiments.residual_scaling.bench"
    measure(tyro.cli(Options, prog=prog, args=arguments))


def measure(options: Options) -> None:
    """Print arms per minute of both ways, round by round, and their ratio."""
    # What an earlier process compiled would be loaded instead.
    jax.config.update("jax_enable_compilation_cache", False)
    base = Arm(width=options.width, steps=options.steps)
    rates = [0.2 * 0.9**i for i in range(options.arms)]
    arms = grid(base, learning_rate=rates)
    study = Study(Plan("", (Group("", arms, 1),), 60.0), Path(), None, options.data_dir)
    Lab(study).data(base, "train")  # prepared before the clock starts
    ratios = []
    for number in range(1, options.rounds + 1):
        shared = _arms_per_minute(study, arms, together=True)
        naive = _arms_per_minute(study, arms, together=False)
        ratios.append(shared / naive)
        print(
            f"round {number}: one compilation {shared:.1f} arms/minute, one for each arm "
            f"{naive:.1f}: {ratios[-1]:.2f} times",
            flush=True,
        )
    print(
        f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{options.arms} arms of width {options.width}, {options.steps} steps, on "
        f"{describe(Lab(study).devices)}, jax {jax.__version__}"
    )


def _arms_per_minute(study: Study, arms: Sequence[Arm], *, together: bool) -> float:
    start = time.perf_counter()
    lab = None
    progress = Progress(arms, 1, float("inf"))
    with progress:
        while chosen := progress.next():
            if lab is None or not together:
                jax.clear_caches()
                lab = Lab(study)
            progress.start(chosen)
            train_arms(lab, lab.programs(chosen[0]), chosen, progress)
    return 60 * len(arms) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
