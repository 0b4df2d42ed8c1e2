# SPDX-License-Identifier: Apache-2.0
"""The choice of the next runs and the time left, with a fake clock."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.residual_scaling.design.plans import grid
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.run import progress as module
from experiments.residual_scaling.run.progress import Progress

RUN = Run(width=8, depth=1, steps=10, probe_every=5)
WIDE = replace(RUN, width=32)


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", made.perf_counter)
    return made


def train(progress: Progress, clock: Clock, compiling: float, per_step: float) -> None:
    """The next runs, whose first five steps take `compiling`, and each other `per_step`."""
    runs = progress.next()
    progress.start(runs)
    for step, seconds in ((5, compiling), (10, 5 * per_step)):
        clock.now += seconds
        progress.show(step, np.ones(4), np.zeros(4))
    for run in runs:
        progress.finish(run, "healthy")


def test_concurrent_runs_share_shape_and_initialiser():
    glorot = replace(RUN, init="glorot")
    longer = replace(RUN, steps=20)
    runs = [RUN, glorot, WIDE, longer, *grid(RUN, scale=(0.1, 0.2, 0.3)), WIDE]
    runs = list(dict.fromkeys(runs))
    progress = Progress(runs, 2, np.inf)
    chosen = list(iter(progress.next, []))
    assert chosen == [
        [RUN, replace(RUN, scale=0.1)],
        [glorot],
        [WIDE],
        [longer],
        [replace(RUN, scale=0.2), replace(RUN, scale=0.3)],
    ]
    assert progress.left_out == []


def test_time_comes_from_the_steps_of_each_program(clock):
    runs = [*grid(RUN, seed=(0, 1, 2, 3)), *grid(WIDE, seed=(0, 1, 2, 3))]
    progress = Progress(runs, 2, 1000.0)
    assert progress.left() == "00:00"  # no estimate yet
    train(progress, clock, compiling=60.0, per_step=1.0)
    assert progress.expected(RUN) == pytest.approx(10)
    assert progress.expected(replace(RUN, steps=30)) == pytest.approx(30)
    # Four times the work, and compiling.
    assert progress.expected(WIDE) == pytest.approx(40 + 60)
    # Two and four runs on two devices, and one program to compile.
    assert progress.left() == f"{(2 * 10 + 4 * 40) // 2 // 60 + 1:02d}:30"
    train(progress, clock, compiling=1.0, per_step=1.0)  # nothing was compiled
    train(progress, clock, compiling=30.0, per_step=2.0)
    assert progress.compiling == 60
    assert progress.expected(WIDE) == pytest.approx(20)
    # A program between the two is estimated from the narrower one.
    between = replace(RUN, width=16)
    assert progress.expected(between) == pytest.approx(2 * 10 + 60)
    clock.now = 995.0
    assert progress.left() == "00:05"  # never more than the deadline allows


def test_runs_that_would_end_too_late_are_left_out_and_shorter_ones_are_not(clock):
    long = replace(RUN, steps=100)
    progress = Progress([RUN, long, replace(RUN, seed=1)], 1, 100.0)
    train(progress, clock, compiling=20.0, per_step=1.0)
    clock.now = 50.0
    assert progress.next() == [replace(RUN, seed=1)]
    assert progress.left_out == [long]
    assert progress.next() == []


def test_every_finished_run_prints_a_line(clock, capsys):
    progress = Progress([RUN, WIDE], 1, 100.0)
    train(progress, clock, compiling=1.0, per_step=1.0)
    assert capsys.readouterr().out == f"[1/2, 00:41 left] {RUN}: healthy\n"
