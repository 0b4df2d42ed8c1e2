# SPDX-License-Identifier: Apache-2.0
"""Live progress of a study, the time left, and which runs still fit into it."""

import time
from collections.abc import Sequence
from typing import Self

import numpy as np
from tqdm import tqdm

from experiments.residual_scaling.runs import Run


class Progress:
    """A bar on a terminal, and everywhere a line for each finished run.

    The time left comes from the seconds per step of each program and from what compiling
    took, so that the very different costs of the programs mislead nobody. `deadline` is a
    `time.perf_counter()`; `devices` runs are trained at once.
    """

    def __init__(self, runs: Sequence[Run], devices: int, deadline: float) -> None:
        self.waiting, self.devices, self.deadline = list(runs), devices, deadline
        self.total, self.finished = len(runs), 0
        self.left_out: list[Run] = []
        self.per_step: dict[Run, float] = {}  # seconds, by program
        self.compiling = 0.0  # seconds that it took at most
        self.bar = tqdm(
            total=len(runs),
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            disable=None,  # no bar where the output is no terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def next(self) -> list[Run]:
        """The next runs, of one shape, that will end in time; none: it is over."""
        while self.waiting:
            first = self.waiting[0]
            alike = [
                run
                for run in self.waiting
                if (run.shape, run.init) == (first.shape, first.init)
            ]
            together = alike[: self.devices]
            self.waiting = [run for run in self.waiting if run not in together]
            if time.perf_counter() + self.expected(first) <= self.deadline:
                return together
            self.left_out += together
        return []

    def start(self, runs: Sequence[Run]) -> None:
        """`runs` begin; the first of a program are compiled for."""
        self.runs, self.step, self.last = runs, 0, time.perf_counter()
        new = runs[0].program not in self.per_step
        self.bar.set_description_str(f"{runs[0]}: {'compiling' if new else 'starting'}")

    def show(self, step: int, losses: np.ndarray, dead: np.ndarray) -> None:
        """`step` updates of the runs are done, with these losses and dead fractions."""
        run, taken, now = self.runs[0], step - self.step, time.perf_counter()
        seconds = (now - self.last) / taken
        if self.step:
            self.per_step[run.program] = seconds
        elif run.program not in self.per_step:  # mostly compiling
            self.compiling = max(self.compiling, now - self.last)
        self.step, self.last = step, now
        self.bar.set_description_str(
            f"{self.finished + 1}/{self.total} {run}: step {step}/{run.steps}, "
            f"loss {losses[0]:.3g}, {dead[0]:.0%} dead, {1 / seconds:.3g} steps/s, "
            f"{self.left()} left"
        )

    def finish(self, run: Run, words: str) -> None:
        """`run` is done and saved; `words` say how it went."""
        self.finished += 1
        self.bar.update()
        self.bar.write(f"[{self.finished}/{self.total}, {self.left()} left] {run}: {words}")

    def expected(self, run: Run) -> float:
        """Seconds that a run takes, compiling included, as far as is known."""
        new = run.program not in self.per_step
        return self._training(run) + (self.compiling if new else 0.0)

    def left(self) -> str:
        """Time left, as minutes:seconds."""
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
        # From the widest program measured so far that is not wider.
        known = max(self.per_step, key=lambda p: (p.width <= run.width, p.width))
        return self.per_step[known] * max(1.0, _work(run) / _work(known)) * run.steps


def _work(run: Run) -> int:
    return run.width * run.depth * run.batch_size
