# SPDX-License-Identifier: Apache-2.0
"""Times implementations alternately, round by round; only one computes at a time."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.speed.case import Case
from experiments.speed.process import Record, WorkerProcess, failure


class OutOfTimeError(Exception):
    """The deadline has passed."""


@dataclass
class AlternatingTimer:
    """Measures one case after another and passes each record to `save` at once."""

    implementations: Sequence[str]
    rounds: int
    seconds: float  # for each implementation in a round, but at least one step
    build_together: bool  # build concurrently; start-up times are then not comparable
    restart: bool  # start everything a second time, from its compilation cache
    logs: Path
    save: Callable[[Record], None]
    deadline: float  # in seconds of time.monotonic()
    start: Callable[..., WorkerProcess] = WorkerProcess
    # (network, task, implementation) that ran out of memory: no larger batch is tried.
    too_large: set[tuple[str, str, str]] = field(default_factory=set)
    not_installed: set[str] = field(default_factory=set)

    def measure(self, case: Case) -> None:
        """Measure one case. Raises OutOfTimeError; records saved until then are valid."""
        with contextlib.ExitStack() as stack:
            caches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            workers = self._build_all(case, caches, stack)
            completed = self._time_rounds(case, workers)
            for worker in completed:
                self._save("memory", case, worker.name, **worker.ask("peak"))
                worker.close()
            if self.restart:
                for worker in completed:
                    self._time_restart(case, worker.name, caches)

    def _build_all(
        self, case: Case, caches: Path, stack: contextlib.ExitStack
    ) -> list[WorkerProcess]:
        """Return the workers that are ready, each with its own process and cache."""

        def build(name: str) -> tuple[WorkerProcess, Record]:
            self._check_time()
            worker = stack.enter_context(self._started(name, caches))
            answer = worker.build(case)
            self._check_time()
            return worker, answer

        ready = []
        task = case.network, case.task
        names = [n for n in self._installed() if (*task, n) not in self.too_large]
        threads = len(self.implementations) if self.build_together else 1
        with ThreadPoolExecutor(threads) as pool:
            try:
                for worker, answer in pool.map(build, names):
                    fields = {"cached": False, "side_by_side": self.build_together}
                    self._save("start", case, worker.name, **fields, **answer)
                    if not failure(answer):
                        ready.append(worker)
            except BaseException:
                stack.close()  # otherwise the pool waits for compilations to finish
                raise
        return ready

    def _time_rounds(self, case: Case, workers: list[WorkerProcess]) -> list[WorkerProcess]:
        """Time all rounds and return the workers that completed them."""
        steps = {worker: self._steps_per_round(worker) for worker in workers}
        for number in range(self.rounds):
            order = list(steps) if number % 2 == 0 else list(reversed(steps))
            for worker in order:
                self._check_time()
                answer = _time_steps(worker, steps[worker])
                self._check_time()
                self._save("round", case, worker.name, round=number, **answer)
                if failure(answer):
                    del steps[worker]
        return list(steps)

    def _time_restart(self, case: Case, name: str, caches: Path) -> None:
        self._check_time()
        with self._started(name, caches) as worker:
            answer = worker.build(case)
        self._check_time()
        self._save("start", case, name, cached=True, **answer)

    @contextlib.contextmanager
    def _started(self, name: str, caches: Path) -> Iterator[WorkerProcess]:
        memory_share = 0.9 / len(self._installed())
        log, cache = self.logs / f"{name}.log", caches / name
        worker = self.start(name, log, cache, memory_share, self.deadline)
        try:
            yield worker
        finally:
            worker.close()

    def _steps_per_round(self, worker: WorkerProcess) -> int:
        one_step = _time_steps(worker, 1).get("seconds", math.inf)
        return max(1, math.floor(self.seconds / one_step))

    def _installed(self) -> list[str]:
        return [name for name in self.implementations if name not in self.not_installed]

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def _save(self, kind: str, case: Case, implementation: str, **answer: Any) -> None:
        if "no_memory" in answer:
            self.too_large.add((case.network, case.task, implementation))
        if "missing" in answer:
            self.not_installed.add(implementation)
        labels = {"kind": kind, **asdict(case), "implementation": implementation}
        self.save(labels | answer)


def _time_steps(worker: WorkerProcess, steps: int) -> Record:
    """Run one untimed step, then time `steps`.

    After another process has run, the operating system may have to map memory again; the
    untimed step absorbs that cost.
    """
    worker.ask("run", steps=1)
    return worker.ask("run", steps=steps)
