# SPDX-License-Identifier: Apache-2.0
"""Run one compilation in a process of its own: one line of JSON in, one line out.

libtpu serves one process at a time and stays loaded until its process ends, so it must not
be loaded into the caller's process.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# The process must neither search for a TPU nor fail because another one has loaded libtpu.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # the caller stores the reply instead
}


def run_worker(module: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run `python -m module`, which calls `answer_request`, and return its reply.

    Raises ValueError if the worker rejects the request, ChildProcessError if it is killed
    by a signal, and RuntimeError if it fails otherwise.
    """
    import_path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    process = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(request, default=str) + "\n",
        capture_output=True,
        text=True,
        env=os.environ | WORKER_ENVIRONMENT | {"PYTHONPATH": import_path},
    )
    if process.returncode < 0:
        raise ChildProcessError(
            f"The compiler process was killed by signal {-process.returncode}; it needs up "
            "to 8 GiB of memory."
        )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        raise RuntimeError(
            f"The compiler process ended with exit status {process.returncode}:\n"
            f"{process.stderr}"
        )
    reply = json.loads(lines[-1])
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply


def answer_request(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read a request from standard input and print `answer(request)` as the last line.

    The message of a ValueError is returned as {"error": message}.
    """
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        reply = answer(json.loads(sys.stdin.readline()))
    except ValueError as error:
        reply = {"error": str(error)}
    print(f"\n{json.dumps(reply)}", flush=True)


def _exit_with_parent(parent: int) -> None:
    """End this process as soon as its parent has ended; compiling takes minutes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
