# SPDX-License-Identifier: Apache-2.0
"""Several processes of one program on this machine, as if they were hosts of a pod."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Processes:
    """Run `python *arguments` in `count` processes, killed at the end of the block.

    Args:
      devices: number of CPU devices of each process.
      folder: where the output of the processes is written.
      coordinator: value of --hosts.coordinator, passed with a count and an index;
        default: a free port of the loopback interface; "" passes none of the three.
      environment: additional variables; "{index}" stands for the index of the process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        count: int,
        devices: int,
        folder: Path,
        *,
        coordinator: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.count = folder, count
        self._arguments = list(arguments)
        self._coordinator = coordinator
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            **(environment or {}),
        }
        self.running: list[subprocess.Popen] = []

    def __enter__(self) -> "Processes":
        coordinator = self._coordinator
        if coordinator is None:
            coordinator = f"127.0.0.1:{free_port()}"
        for index in range(self.count):
            options = {"coordinator": coordinator, "count": self.count, "index": index}
            given = [f"--hosts.{name}={value}" for name, value in options.items()]
            environment = {
                name: value.replace("{index}", str(index))
                for name, value in self._environment.items()
            }
            with self._path(index).open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, *self._arguments, *(given if coordinator else ())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
            self.running.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.kill()
            process.wait()

    def wait(self, seconds: float) -> list[int]:
        """Return the exit statuses; raises AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        for index, process in enumerate(self.running):
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    f"process {index} still runs after {seconds} s\n{self.said_by_all()}"
                ) from None
        return [process.returncode for process in self.running]

    def wait_for(self, text: str, index: int, seconds: float) -> None:
        """Wait until process `index` prints `text`; raises AssertionError as `wait`."""
        end = time.monotonic() + seconds
        while text not in self.said(index):
            ended = self.running[index].poll()
            if time.monotonic() > end or ended is not None:
                raise AssertionError(
                    f"process {index} (status {ended}) did not say {text!r}\n"
                    f"{self.said_by_all()}"
                )
            time.sleep(0.05)

    def said(self, index: int) -> str:
        """Return what process `index` has written to stdout and stderr."""
        return self._path(index).read_text(errors="replace")

    def said_by_all(self) -> str:
        return "\n".join(f"[{i}]\n{self.said(i)}" for i in range(self.count))

    def _path(self, index: int) -> Path:
        return self.folder / f"process_{index}.log"
