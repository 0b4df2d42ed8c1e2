# SPDX-License-Identifier: Apache-2.0
"""Progress of a study: finished runs, time left and the runs that still fit."""

import time
from collections.abc import Sequence
from typing import Self

import numpy as np
from tqdm import tqdm

from experiments.residual_scaling.design.runs import Run


class Progress:
    """Chooses the next runs and prints progress: a bar on terminals, a line per result.

    The time left is estimated from the seconds per step of each program and the time that
    compiling took. `deadline` is a `time.perf_counter()`; `devices` runs train at once.
    """

    def __init__(self, runs: Sequence[Run], devices: int, deadline: float) -> None:
        self.waiting, self.devices, self.deadline = list(runs), devices, deadline
        self.total, self.finished = len(runs), 0
        self.left_out: list[Run] = []
        self.per_step: dict[Run, float] = {}  # seconds, by program
        self.compiling = 0.0  # the longest time so far, in seconds
        self.bar = tqdm(
            total=len(runs),
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            disable=None,  # no bar if the output is not a terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def next(self) -> list[Run]:
        """Return the next runs of one shape that will finish in time, if there are any."""
        while self.waiting:
            first = self.waiting[0]
            shape = first.shape, first.init, first.kernel_init
            alike = [
                run
                for run in self.waiting
                if (run.shape, run.init, run.kernel_init) == shape
            ]
            together = alike[: self.devices]
            self.waiting = [run for run in self.waiting if run not in together]
            if time.perf_counter() + self.expected(first) <= self.deadline:
                return together
            self.left_out += together
        return []

    def start(self, runs: Sequence[Run]) -> None:
        """Start `runs`; the first ones of a program are compiled."""
        self.runs, self.step, self.last = runs, 0, time.perf_counter()
        new = runs[0].program not in self.per_step
        self.bar.set_description_str(f"{runs[0]}: {'compiling' if new else 'starting'}")

    def show(self, step: int, losses: np.ndarray, dead: np.ndarray) -> None:
        """Show the state after `step` updates: losses and dead fractions of the runs."""
        run, taken, now = self.runs[0], step - self.step, time.perf_counter()
        seconds = (now - self.last) / taken
        if self.step:
            self.per_step[run.program] = seconds
        elif run.program not in self.per_step:  # most of it is compiling
            self.compiling = max(self.compiling, now - self.last)
        self.step, self.last = step, now
        self.bar.set_description_str(
            f"{self.finished + 1}/{self.total} {run}: step {step}/{run.steps}, "
            f"loss {losses[0]:.3g}, {dead[0]:.0%} dead, {1 / seconds:.3g} steps/s, "
            f"{self.left()} left"
        )

    def finish(self, run: Run, result: str) -> None:
        """Print a line for a finished run with its result."""
        self.finished += 1
        self.bar.update()
        self.bar.write(
            f"[{self.finished}/{self.total}, {self.left()} left] {run}: {result}"
        )

    def expected(self, run: Run) -> float:
        """Estimate the seconds that a run takes, with compiling."""
        new = run.program not in self.per_step
        return self._training(run) + (self.compiling if new else 0.0)

    def left(self) -> str:
        """Return the estimated time left, as minutes:seconds."""
        new = {run.program for run in self.waiting} - set(self.per_step)
        seconds = sum(map(self._training, self.waiting)) / self.devices
        seconds += len(new) * self.compiling
        seconds = min(seconds, max(self.deadline - time.perf_counter(), 0.0))
        return tqdm.format_interval(seconds)

    def _training(self, run: Run) -> float:
        if run.program in self.per_step:
            return self.per_step[run.program] * run.steps
        if not self.per_step:
            return 0.0
        # Scaled from the widest measured program that is not wider.
        measured = max(self.per_step, key=lambda p: (p.width <= run.width, p.width))
        return self.per_step[measured] * max(1.0, _work(run) / _work(measured)) * run.steps


def _work(run: Run) -> int:
    return run.width * run.depth * run.batch_size
