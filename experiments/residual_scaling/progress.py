# SPDX-License-Identifier: Apache-2.0
"""Live progress of a study, the time left, and which arms still fit into it."""

import time
from collections.abc import Sequence
from typing import Self

import numpy as np
from tqdm import tqdm

from experiments.residual_scaling.arms import Arm


class Progress:
    """A bar on a terminal, and everywhere a line for each finished arm.

    The time left comes from the seconds per step of each program and from what compiling
    took, so that the very different costs of the programs mislead nobody. `deadline` is a
    `time.perf_counter()`; `devices` arms are trained at once.
    """

    def __init__(self, arms: Sequence[Arm], devices: int, deadline: float) -> None:
        self.waiting, self.devices, self.deadline = list(arms), devices, deadline
        self.total, self.finished = len(arms), 0
        self.left_out: list[Arm] = []
        self.per_step: dict[Arm, float] = {}  # seconds, by program
        self.compiling = 0.0  # seconds that it took at most
        self.bar = tqdm(
            total=len(arms),
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            disable=None,  # no bar where the output is no terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def next(self) -> list[Arm]:
        """The next arms, of one shape, that will end in time; none: it is over."""
        while self.waiting:
            first = self.waiting[0]
            alike = [
                arm
                for arm in self.waiting
                if (arm.shape, arm.init) == (first.shape, first.init)
            ]
            together = alike[: self.devices]
            self.waiting = [arm for arm in self.waiting if arm not in together]
            if time.perf_counter() + self.expected(first) <= self.deadline:
                return together
            self.left_out += together
        return []

    def start(self, arms: Sequence[Arm]) -> None:
        """`arms` begin; the first of a program are compiled for."""
        self.arms, self.step, self.last = arms, 0, time.perf_counter()
        new = arms[0].program not in self.per_step
        self.bar.set_description_str(f"{arms[0]}: {'compiling' if new else 'starting'}")

    def show(self, step: int, losses: np.ndarray, dead: np.ndarray) -> None:
        """`step` updates of the arms are done, with these losses and dead fractions."""
        arm, taken, now = self.arms[0], step - self.step, time.perf_counter()
        seconds = (now - self.last) / taken
        if self.step:
            self.per_step[arm.program] = seconds
        elif arm.program not in self.per_step:  # mostly compiling
            self.compiling = max(self.compiling, now - self.last)
        self.step, self.last = step, now
        self.bar.set_description_str(
            f"{self.finished + 1}/{self.total} {arm}: step {step}/{arm.steps}, "
            f"loss {losses[0]:.3g}, {dead[0]:.0%} dead, {1 / seconds:.3g} steps/s, "
            f"{self.left()} left"
        )

    def finish(self, arm: Arm, words: str) -> None:
        """`arm` is done and saved; `words` say how it went."""
        self.finished += 1
        self.bar.update()
        self.bar.write(f"[{self.finished}/{self.total}, {self.left()} left] {arm}: {words}")

    def expected(self, arm: Arm) -> float:
        """Seconds that an arm takes, compiling included, as far as is known."""
        new = arm.program not in self.per_step
        return self._training(arm) + (self.compiling if new else 0.0)

    def left(self) -> str:
        """Time left, as minutes:seconds."""
        new = {arm.program for arm in self.waiting} - set(self.per_step)
        seconds = sum(map(self._training, self.waiting)) / self.devices
        seconds += len(new) * self.compiling
        seconds = min(seconds, max(self.deadline - time.perf_counter(), 0.0))
        return tqdm.format_interval(seconds)

    def _training(self, arm: Arm) -> float:
        if arm.program in self.per_step:
            return self.per_step[arm.program] * arm.steps
        if not self.per_step:
            return 0.0
        # From the widest program measured so far that is not wider.
        known = max(self.per_step, key=lambda p: (p.width <= arm.width, p.width))
        return self.per_step[known] * max(1.0, _work(arm) / _work(known)) * arm.steps


def _work(arm: Arm) -> int:
    return arm.width * arm.depth * arm.batch_size
