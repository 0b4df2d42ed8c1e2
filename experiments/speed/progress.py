# SPDX-License-Identifier: Apache-2.0
"""Prints a line on stderr for each measurement, with an estimate of the time left."""

import sys
import time
from collections.abc import Callable

from experiments.speed.process import Record, failure


class Progress:
    """Prints records as they arrive; all cases together take at most `limit` seconds."""

    def __init__(
        self, cases: int, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cases, self.limit, self.clock = cases, limit, clock
        self.start = clock()
        self.case: tuple[str, str, int] | None = None
        self.number = 0  # of the current case, from 1

    def show(self, record: Record) -> None:
        """Print one record."""
        if record["kind"] == "machine":
            self._print(f"{record['device']}, {record['versions']}")
            return
        case = record["network"], record["task"], record["batch"]
        if case != self.case:
            self.case, self.number = case, self.number + 1
        network, task, batch = case
        name = record.get("implementation", "all implementations")
        self._print(
            f"[{self.number}/{self.cases}] {network} {task}, batch {batch}: {name}, "
            f"{describe(record)}; {self._time_left()}"
        )

    def _time_left(self) -> str:
        elapsed = self.clock() - self.start
        left = self.limit - elapsed
        completed = self.number - 1
        if completed:
            left = min(left, elapsed / completed * (self.cases - completed))
        minutes, seconds = divmod(round(max(left, 0)), 60)
        return f"at most {minutes}:{seconds:02} left"

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def describe(record: Record) -> str:
    """Return the result of one measurement in a few words."""
    if reason := record.get("reason") or failure(record):
        return f"not measured: {reason}"
    if record["kind"] == "round":
        rate = record["steps"] * record["batch"] / record["seconds"]
        return f"round {record['round'] + 1}: {rate:.3g} images/s"
    if record["kind"] == "memory":
        return f"{record['bytes'] / 1e6:,.0f} MB of {record['of']} memory"
    start = "restart from the cache" if record["cached"] else "start"
    return f"{start}: first step after {record['first_step']:.3g} s"
