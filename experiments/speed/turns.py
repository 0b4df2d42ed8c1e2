# SPDX-License-Identifier: Apache-2.0
"""Sides that take turns, round by round; only one computes at a time."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.speed.case import Case

Record = dict[str, Any]
FAULTS = ("missing", "refused", "no_memory", "error")


class OutOfTimeError(Exception):
    """The minutes are over."""


class Side:
    """A worker process with one case; what it prints goes into a log."""

    def __init__(
        self, name: str, log: Path, cache: Path, memory: float, deadline: float
    ) -> None:
        self.name, self.deadline = name, deadline
        self.started = time.time()
        environment = os.environ | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_CLIENT_MEM_FRACTION": f"{memory:.2f}",
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
        }
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.speed.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=Path(__file__).parents[2],
                text=True,
            )

    def ask(self, do: str, **values: Any) -> Record:
        """The answer; {"error": ...} where the process is gone, as at the deadline."""
        left = min(max(0.0, self.deadline - time.monotonic()), threading.TIMEOUT_MAX)
        timer = threading.Timer(left, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        return {"error": f"the process ended with status {self.process.wait()}"}

    def build(self, case: Case) -> Record:
        """Make it ready for the case."""
        return self.ask("build", case=asdict(case), started=self.started)

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@dataclass
class Turns:
    """Measures cases one after another and hands on what was found, record by record."""

    sides: Sequence[str]
    rounds: int
    seconds: float  # that a side computes in a round, or one step where that is longer
    together: bool  # the sides are made ready side by side, which does not measure that
    again: bool  # also start each side a second time, from what the first one compiled
    logs: Path
    tell: Callable[[Record], None]
    deadline: float  # by time.monotonic()
    start: Callable[..., Side] = Side
    # Network, task and side of what did not fit: a larger batch is not tried.
    full: set[tuple[str, str, str]] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)  # sides whose library is not installed

    def measure(self, case: Case) -> None:
        """All of a case. Raises OutOfTimeError, after what there was time for."""
        with contextlib.ExitStack() as stack:
            caches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sides = self._built(case, caches, stack)
            steps = {side: self._steps(side) for side in sides}
            for number in range(self.rounds):
                order = list(steps) if number % 2 == 0 else list(reversed(steps))
                for side in order:
                    self._check_time()
                    found = _run(side, steps[side])
                    self._check_time()
                    self._tell("round", case, side.name, round=number, **found)
                    if fault(found):
                        del steps[side]
            for side in steps:
                self._tell("memory", case, side.name, **side.ask("peak"))
                side.close()
            if self.again:
                for side in steps:
                    self._check_time()
                    with self._started(side.name, caches) as second:
                        found = second.build(case)
                    self._check_time()
                    self._tell("start", case, side.name, cached=True, **found)

    def _built(self, case: Case, caches: Path, stack: contextlib.ExitStack) -> list[Side]:
        """The sides that are ready, each with a process and a cache of its own."""

        def build(name: str) -> tuple[Side, Record]:
            self._check_time()
            side = stack.enter_context(self._started(name, caches))
            found = side.build(case)
            self._check_time()
            return side, found

        ready = []
        what = case.network, case.task
        names = [n for n in self._there() if (*what, n) not in self.full]
        with ThreadPoolExecutor(len(self.sides) if self.together else 1) as pool:
            try:
                for side, found in pool.map(build, names):
                    fields = {"cached": False, "side_by_side": self.together}
                    self._tell("start", case, side.name, **fields, **found)
                    if not fault(found):
                        ready.append(side)
            except BaseException:
                stack.close()  # else the pool waits for compilations
                raise
        return ready

    @contextlib.contextmanager
    def _started(self, name: str, caches: Path) -> Iterator[Side]:
        memory = 0.9 / len(self._there())  # of a device, which all share
        log, cache = self.logs / f"{name}.log", caches / name
        side = self.start(name, log, cache, memory, self.deadline)
        try:
            yield side
        finally:
            side.close()

    def _steps(self, side: Side) -> int:
        """Steps of a turn, by one that is timed."""
        found = _run(side, 1)
        return max(1, math.floor(self.seconds / found.get("seconds", math.inf)))

    def _there(self) -> list[str]:
        return [name for name in self.sides if name not in self.absent]

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def _tell(self, kind: str, case: Case, side: str, **found: Any) -> None:
        if "no_memory" in found:
            self.full.add((case.network, case.task, side))
        if "missing" in found:
            self.absent.add(side)
        self.tell({"kind": kind, **asdict(case), "side": side, **found})


def _run(side: Side, steps: int) -> Record:
    """The answer to so many steps, after one that is not timed: it warms up, and what
    memory the other sides gave back in their turns, a system may have to map anew."""
    side.ask("run", steps=1)
    return side.ask("run", steps=steps)


def fault(found: Record) -> str | None:
    """What is wrong, in a sentence."""
    return next((found[kind] for kind in FAULTS if kind in found), None)
