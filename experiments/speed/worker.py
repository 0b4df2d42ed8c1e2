# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.worker SIDE`: a side in a process of its own.

Reads requests from stdin and answers each on stdout, a line of JSON for a line of JSON:
{"do": "build", "case": ..., "started": time.time()}, {"do": "run", "steps": n},
{"do": "peak"} and {"do": "machine"}. What goes wrong is an answer too: {"missing": ...},
{"refused": ...}, {"no_memory": ...} or {"error": ...}, each with a sentence.
"""

import contextlib
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from experiments.speed.case import Built, Case


class Worker:
    """Answers for one side."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.built: Built | None = None

    def build(self, case: dict[str, Any], started: float) -> dict[str, Any]:
        """Make the side ready, the first step included; seconds of every part."""
        times = [time.perf_counter()]
        side = importlib.import_module(f"experiments.speed.implementations.{self.side}")
        times.append(time.perf_counter())
        self.built = side.build(Case(**case))
        times.append(time.perf_counter())
        cpu_start = time.process_time()
        self.built.run(1)
        cpu = time.process_time() - cpu_start
        times.append(time.perf_counter())
        parts = [b - a for a, b in itertools.pairwise(times)]
        since_start = time.time() - started
        _forget_peak()
        return {
            **dict(zip(("import", "build", "first_step"), parts, strict=True)),
            "first_step_cpu": cpu,
            "since_start": since_start,
            "parameters": self.built.parameters,
            "macs": self.built.macs(),  # after what is timed
        }

    def run(self, steps: int) -> dict[str, Any]:
        """Run so many steps; CPU seconds are of all threads."""
        start, cpu_start = time.perf_counter(), time.process_time()
        self.built.run(steps)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        return {"steps": steps, "seconds": seconds, "cpu_seconds": cpu}

    def peak(self) -> dict[str, Any]:
        """Most memory at once: of the device, or of the process since it was built."""
        of_device = self.built.peak()
        return {
            "bytes": of_device or _process_peak(),
            "of": "process" if of_device is None else "device",
        }

    def machine(self) -> dict[str, Any]:
        """What `ours` finds out about the device."""
        side = importlib.import_module("experiments.speed.implementations.ours")
        return side.machine()


def _forget_peak() -> None:
    """Compilation is over: Linux counts the process's peak memory anew.

    Where it cannot, the peak is that of the whole process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _process_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request; never raises but for a request that is none."""
    act = getattr(worker, request.pop("do"))
    try:
        return act(**request)
    except ImportError as error:
        return {"missing": str(error)}
    except ValueError as error:
        traceback.print_exc()
        return {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        full = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
        full |= "RESOURCE_EXHAUSTED" in said[0]
        kind = "no_memory" if full else "error"
        return {kind: f"{type(error).__name__}: {said[0]}"}


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
