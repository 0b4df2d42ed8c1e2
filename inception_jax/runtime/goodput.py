# SPDX-License-Identifier: Apache-2.0
"""Where the wall time of a run went: a record that survives the process."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# What a process spends time on. "step" is the work itself; what a later process has to do
# again, because no checkpoint holds it, becomes "lost".
KINDS = ("init", "compile", "data_wait", "step", "checkpoint", "eval")


class Goodput:
    """Divides the time since `started` (of `time.perf_counter`) among `KINDS`.

    At any moment the clock of exactly one kind runs, "init" first, so that the parts add
    up to the wall time.
    """

    def __init__(self, started: float | None = None) -> None:
        self.session = time.time()  # names this process in the record
        self._kind, self._since = "init", time.perf_counter()
        if started is not None:
            self._since = started
        self._seconds = dict.fromkeys(KINDS, 0.0)

    @contextmanager
    def spent_on(self, kind: str) -> Iterator[None]:
        """The clock of `kind` runs inside the block, and the one before it afterwards."""
        before = self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def training_seconds(self) -> float:
        """Seconds so far of updates and of waiting for their data."""
        self._switch(self._kind)
        return self._seconds["step"] + self._seconds["data_wait"]

    def standing(self) -> tuple[str, float]:
        """The kind whose clock runs, and seconds since anything was last reported.

        For another thread: it changes nothing.
        """
        return self._kind, time.perf_counter() - self._since

    def record(self, step: int) -> dict[str, Any]:
        """Seconds so far, with the number of updates that they brought."""
        self._switch(self._kind)
        return {"session": self.session, "step": step, "seconds": dict(self._seconds)}

    def _switch(self, kind: str) -> str:
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        return before


def add_up(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds by kind over all processes of a run, and "lost", from their records.

    A process that starts at step s, as its first record says, builds on what those before
    it had spent when they stood at s; the rest of theirs is lost.
    """
    total = dict.fromkeys((*KINDS, "lost"), 0.0)
    sessions: dict[float, list[dict[str, Any]]] = {}
    for record in records:
        sessions.setdefault(record["session"], []).append(record)
    end = float("inf")  # the lowest start of a later process
    for session in reversed(sessions.values()):
        kept = [record for record in session if record["step"] <= end] or session[:1]
        for kind in KINDS:
            total[kind] += kept[-1]["seconds"][kind]
        total["lost"] += _sum(session[-1]) - _sum(kept[-1])
        end = min(end, session[0]["step"])
    return total


def _sum(record: dict[str, Any]) -> float:
    return sum(record["seconds"].values())
