# SPDX-License-Identifier: Apache-2.0
"""The parent's end of a worker process: requests, answers and a deadline."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.speed.case import Case

Record = dict[str, Any]
FAILURES = ("missing", "refused", "no_memory", "error")


class WorkerProcess:
    """A process that runs one case of one implementation; `log` gets what it prints.

    `memory` is its share of the device's memory. The process is killed at `deadline`, in
    seconds of `time.monotonic`.
    """

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
        """Send one request and return the answer, {"error": ...} if the process ended."""
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
        """Prepare the case and run its first step."""
        return self.ask("build", case=asdict(case), started=self.started)

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def failure(answer: Record) -> str | None:
    """Return the reason why a request failed, or None if it succeeded."""
    return next((answer[kind] for kind in FAILURES if kind in answer), None)
