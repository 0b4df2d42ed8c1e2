# SPDX-License-Identifier: Apache-2.0
"""Live progress of a study: the arm, step, loss, dead channels, rate and time left."""

import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

from experiments.residual_scaling.study import Arm


class Progress:
    """A bar on a terminal, and everywhere a line for each finished arm.

    The time left comes from the seconds per step of each width, so that neither compiling
    nor the very different costs of the widths mislead it.
    """

    def __init__(self, arms: Sequence[Arm], steps: int, macs: dict[int, int]) -> None:
        self.arms, self.steps, self.macs = arms, steps, macs
        self.finished = 0  # arms
        self.step = 0  # of the arm at work
        self.measured: dict[int, tuple[float, int]] = {}  # seconds and steps by width
        self.bar = tqdm(
            total=sum(steps * macs[arm.width] for arm in arms),
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            disable=None,  # no bar where the output is no terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, arm: Arm) -> None:
        """`arm` begins; the first of each width compiles for some seconds."""
        self.arm, self.step, self.last = arm, 0, time.perf_counter()
        first = all(a.width != arm.width for a in self.arms[: self.finished])
        self.bar.set_description_str(f"{arm}: {'compiling' if first else 'starting'}")

    def show(self, step: int, loss: float, dead: float) -> None:
        """`step` updates of the arm are done, with this loss and dead fraction."""
        width, taken = self.arm.width, step - self.step
        now = time.perf_counter()
        if self.step:  # an arm's first steps may include compiling
            seconds, steps = self.measured.get(width, (0.0, 0))
            self.measured[width] = (seconds + now - self.last, steps + taken)
        self.step, self.last = step, now
        cost = self.seconds_per_step(width)
        rate = f", {1 / cost:.0f} steps/s" if cost else ""
        self.bar.set_description_str(
            f"{self.finished + 1}/{len(self.arms)} {self.arm}: step {step}/{self.steps}, "
            f"loss {loss:.3g}, {dead:.0%} dead{rate}, {self.left()} left"
        )
        self.bar.update(taken * self.macs[width])

    def finish(self, arm: Arm, words: str) -> None:
        """`arm` is done and saved; `words` say how it went."""
        self.finished, self.step = self.finished + 1, 0
        self.bar.write(
            f"[{self.finished}/{len(self.arms)}, {self.left()} left] {arm}: {words}"
        )

    def seconds_per_step(self, width: int) -> float | None:
        """As measured; for a width not yet seen, from the widest seen and its cost."""
        if not self.measured:
            return None
        known = width if width in self.measured else max(self.measured)
        seconds, steps = self.measured[known]
        return seconds / steps * self.macs[width] / self.macs[known]

    def left(self) -> str:
        """Time left, as minutes:seconds; "?" before anything was measured."""
        if not self.measured:
            return "?"
        steps = dict.fromkeys(self.macs, 0)
        for arm in self.arms[self.finished :]:
            steps[arm.width] += self.steps
        if self.step:
            steps[self.arm.width] -= self.step
        seconds = sum(n * self.seconds_per_step(width) for width, n in steps.items())
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
