# SPDX-License-Identifier: Apache-2.0
"""A line on stderr for each thing that was measured, with the time that is left."""

import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.speed.turns import fault


class Progress:
    """Tells records as they come, and how long the rest of the cases takes at that pace.

    `limit` is when the measurement ends at the latest, in seconds from now.
    """

    def __init__(
        self, cases: int, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cases, self.limit, self.clock = cases, limit, clock
        self.began = clock()
        self.case: tuple | None = None
        self.done = -1  # cases, with the one under way

    def tell(self, record: dict[str, Any]) -> None:
        """One line."""
        if record["kind"] == "machine":
            self._say(f"{record['device']}, {record['versions']}")
            return
        case = tuple(record[name] for name in ("network", "task", "batch"))
        if case != self.case:
            self.case, self.done = case, self.done + 1
        network, task, batch = case
        side = record.get("side", "all sides")
        words = f"[{self.done + 1}/{self.cases}] {network} {task}, batch {batch}: {side}"
        self._say(f"{words}, {what(record)}{self._left()}")

    def _left(self) -> str:
        spent = self.clock() - self.began
        left = self.limit - spent
        if self.done:
            left = min(left, spent / self.done * (self.cases - self.done))
        minutes, seconds = divmod(round(max(left, 0)), 60)
        return f"; at most {minutes}:{seconds:02} left"

    def _say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)


def what(record: dict[str, Any]) -> str:
    """What a record says, in a few words."""
    if reason := record.get("reason") or fault(record):
        return f"not measured: {reason}"
    if record["kind"] == "round":
        rate = record["steps"] * record["batch"] / record["seconds"]
        return f"round {record['round'] + 1}: {rate:.3g} images/s"
    if record["kind"] == "memory":
        return f"{record['bytes'] / 1e6:,.0f} MB of the {record['of']}"
    start = "a second start" if record["cached"] else "a start"
    return f"{start}: first step after {record['first_step']:.3g} s"
