# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.worker IMPLEMENTATION`: runs one implementation.

Reads requests from stdin and answers each on stdout, one line of JSON for one line of JSON:
{"do": "build", "case": ..., "started": time.time()}, {"do": "run", "steps": n},
{"do": "peak"} and {"do": "machine"}. The answer to a request that fails is
{"missing": ...}, {"refused": ...}, {"no_memory": ...} or {"error": ...} with a sentence.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from experiments.speed.case import BuiltCase, Case


class Worker:
    """Answers requests for one implementation."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self.built: BuiltCase | None = None

    def build(self, case: dict[str, Any], started: float) -> dict[str, Any]:
        """Prepare the case, run the first step and return the seconds of each part."""
        begin = time.perf_counter()
        module = importlib.import_module(
            f"experiments.speed.implementations.{self.implementation}"
        )
        imported = time.perf_counter()
        self.built = module.build(Case(**case))
        built, cpu_start = time.perf_counter(), time.process_time()
        self.built.run(1)
        stepped, cpu_end = time.perf_counter(), time.process_time()
        since_start = time.time() - started
        _reset_process_peak()
        return {
            "import": imported - begin,
            "build": built - imported,
            "first_step": stepped - built,
            "first_step_cpu": cpu_end - cpu_start,
            "since_start": since_start,
            "parameters": self.built.parameters,
            "macs": self.built.macs(),  # last, since it takes time
        }

    def run(self, steps: int) -> dict[str, Any]:
        """Run `steps` steps; CPU seconds are those of all threads."""
        start, cpu_start = time.perf_counter(), time.process_time()
        self.built.run(steps)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        return {"steps": steps, "seconds": seconds, "cpu_seconds": cpu}

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the device, or else of the process after `build`."""
        device_peak = self.built.peak()
        if device_peak is None:
            return {"bytes": _process_peak(), "of": "process"}
        return {"bytes": device_peak, "of": "device"}

    def machine(self) -> dict[str, Any]:
        """Return the description of the device by `ours`."""
        from experiments.speed.implementations import ours

        return ours.machine()


def _reset_process_peak() -> None:
    """Make Linux forget the peak memory of compilation; elsewhere it is included."""
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
    """Return the answer to one request; failures become answers, too."""
    method = getattr(worker, request.pop("do"))
    try:
        return method(**request)
    except ImportError as error:
        return {"missing": str(error)}
    except ValueError as error:
        traceback.print_exc()
        return {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        kind = "no_memory" if _out_of_memory(error) else "error"
        return {kind: f"{type(error).__name__}: {_first_line(error)}"}


def _out_of_memory(error: Exception) -> bool:
    named = type(error).__name__ == "OutOfMemoryError"  # PyTorch's, not imported here
    exhausted = "RESOURCE_EXHAUSTED" in _first_line(error)  # XLA's
    return named or exhausted or isinstance(error, MemoryError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def main() -> None:
    """Answer requests until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout is for answers; what libraries print goes to stderr
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
