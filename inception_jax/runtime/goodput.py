# SPDX-License-Identifier: Apache-2.0
"""Accounting of wall time: how much of it a run spends on training."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Activities of a process; "step" is training itself. `total_seconds` counts work as "lost"
# if a later session repeated it, because no checkpoint held its result.
KINDS = ("init", "compile", "data_wait", "step", "checkpoint", "eval")


class Goodput:
    """Divides the time since `started` (of `time.perf_counter`) among `KINDS`.

    Exactly one kind is timed at any moment, "init" first, so they add up to the wall time.
    """

    def __init__(self, started: float | None = None) -> None:
        self.session = time.time()  # identifies this session in the records
        self._kind = "init"
        self._since = time.perf_counter() if started is None else started
        self._seconds = dict.fromkeys(KINDS, 0.0)

    @contextmanager
    def spent_on(self, kind: str) -> Iterator[None]:
        """Time `kind` inside the context, and the previous kind again afterwards."""
        previous = self._switch(kind)
        try:
            yield
        finally:
            self._switch(previous)

    def training_seconds(self) -> float:
        """Return the seconds spent on steps and on waiting for their data."""
        self._switch(self._kind)
        return self._seconds["step"] + self._seconds["data_wait"]

    def current_activity(self) -> tuple[str, float]:
        """Return the current kind and the seconds since another method was called.

        Changes nothing, so other threads can call it.
        """
        return self._kind, time.perf_counter() - self._since

    def record(self, step: int) -> dict[str, Any]:
        """Return a record of the seconds so far, by kind, after `step` steps."""
        self._switch(self._kind)
        return {"session": self.session, "step": step, "seconds": dict(self._seconds)}

    def _switch(self, kind: str) -> str:
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._since
        previous, self._kind, self._since = self._kind, kind, now
        return previous


def total_seconds(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds by kind, and "lost", over all sessions of a run.

    A session whose first record is at step s continued from the state that an earlier
    session had saved at s. The work of the earlier session after s is lost.
    """
    sessions: dict[float, list[dict[str, Any]]] = {}
    for record in records:
        sessions.setdefault(record["session"], []).append(record)
    total = dict.fromkeys((*KINDS, "lost"), 0.0)
    end = float("inf")  # the lowest step at which a later session starts
    for session in reversed(sessions.values()):
        kept = [record for record in session if record["step"] <= end] or session[:1]
        for kind in KINDS:
            total[kind] += kept[-1]["seconds"][kind]
            total["lost"] += session[-1]["seconds"][kind] - kept[-1]["seconds"][kind]
        end = min(end, session[0]["step"])
    return total
