# SPDX-License-Identifier: Apache-2.0
"""Accounting of time, with a clock that the test sets."""

import contextlib
import time

import pytest

from inception_jax.runtime.goodput import KINDS, Goodput, total_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `time.perf_counter` returns."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def spent(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(KINDS, 0.0) | seconds


def test_one_kind_is_timed_at_any_moment(clock):
    account = Goodput(started=98.0)
    clock[0] += 1
    with account.spent_on("eval"):
        clock[0] += 10
        with account.spent_on("compile"):
            clock[0] += 20
        clock[0] += 30
    with contextlib.suppress(KeyError), account.spent_on("step"):
        clock[0] += 40
        raise KeyError
    clock[0] += 50
    record = account.record(7)
    assert record["step"] == 7
    assert record["seconds"] == spent(init=53.0, eval=40.0, compile=20.0, step=40.0)
    assert sum(record["seconds"].values()) == clock[0] - 98


def test_training_seconds_are_steps_and_data(clock):
    account = Goodput()
    for kind, seconds in (("step", 3), ("data_wait", 4), ("eval", 5)):
        with account.spent_on(kind):
            clock[0] += seconds
    assert account.training_seconds() == 7


def line(session: float, at: int, **seconds: float) -> dict:
    return {"session": session, "step": at, "seconds": spent(**seconds)}


def test_repeated_work_is_lost():
    """The second process starts at step 10, so the first one's later work is lost."""
    first = [line(1.0, 0, init=1.0), line(1.0, 10, init=1.0, step=5.0)]
    killed = [*first, line(1.0, 20, init=1.0, step=9.0, eval=2.0)]
    second = [line(2.0, 10, init=3.0), line(2.0, 30, init=3.0, step=8.0)]
    assert total_seconds(killed) == {**spent(init=1.0, step=9.0, eval=2.0), "lost": 0.0}
    assert total_seconds(killed + second) == {**spent(init=4.0, step=13.0), "lost": 6.0}
    # A third process starts before the step at which the second did.
    third = [line(3.0, 0, init=1.0)]
    expected = {**spent(init=5.0), "lost": (12.0 - 1.0) + (11.0 - 3.0)}
    assert total_seconds(killed + second + third) == expected
