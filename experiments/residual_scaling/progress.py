# SPDX-License-Identifier: Apache-2.0
"""Live progress of a study: the arm, step, loss, dead channels, rate and time left."""

import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

from experiments.residual_scaling.study import Arm


class Progress:
    """A bar on a terminal, and everywhere a line for each finished arm.

    Work is counted in multiply-accumulates: arms of different widths take very different
    times, and the time left has to know.
    """

    def __init__(self, arms: Sequence[Arm], steps: int, macs: dict[int, int]) -> None:
        self.arms, self.steps, self.macs = arms, steps, macs
        self.total = sum(steps * macs[arm.width] for arm in arms)
        self.done = 0  # work
        self.finished = 0  # arms
        self.began = time.perf_counter()
        self.bar = tqdm(
            total=self.total,
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            disable=None,  # no bar where the output is no terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, arm: Arm) -> None:
        """`arm` begins; the first of each width compiles for some seconds."""
        self.arm, self.arm_began, self.step = arm, time.perf_counter(), 0
        first = all(a.width != arm.width for a in self.arms[: self.finished])
        self.bar.set_description_str(f"{arm}: {'compiling' if first else 'starting'}")

    def show(self, step: int, loss: float, dead: float) -> None:
        """`step` updates of the arm are done, with this loss and dead fraction."""
        work = (step - self.step) * self.macs[self.arm.width]
        self.step = step
        self.done += work
        rate = step / (time.perf_counter() - self.arm_began)
        self.bar.set_description_str(
            f"{self.finished + 1}/{len(self.arms)} {self.arm}: step {step}/{self.steps}, "
            f"loss {loss:.3g}, {dead:.0%} dead, {rate:.0f} steps/s, {self.left()} left"
        )
        self.bar.update(work)

    def finish(self, arm: Arm, words: str) -> None:
        """`arm` is done and saved; `words` say how it went."""
        self.finished += 1
        self.bar.write(
            f"[{self.finished}/{len(self.arms)}, {self.left()} left] {arm}: {words}"
        )

    def left(self) -> str:
        """Time left at the rate so far, as minutes:seconds."""
        spent = time.perf_counter() - self.began
        seconds = spent * (self.total - self.done) / max(self.done, 1)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
