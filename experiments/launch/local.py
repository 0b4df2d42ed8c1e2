# SPDX-License-Identifier: Apache-2.0
"""Rehearse a multi-host run with several processes on this machine's CPU.

RECIPE and its options are those of `experiments.run`. Ctrl-C and SIGTERM are forwarded to
all processes, which save and stop together. If a process fails, the others are stopped.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from inception_jax.runtime.stopping import ExitStatus

# Seconds for the others to notice a lost process (--hosts.heartbeat-timeout) and report it.
NOTICE_WITHIN = 75.0


def main(arguments: Sequence[str] | None = None, module: str = "experiments.run") -> int:
    """Run the command; return the status of the first failed process, or 76 if killed."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, help="processes (default: 2)")
    devices_help = "CPU devices of each process (default: 2)"
    parser.add_argument("--devices", type=int, default=2, help=devices_help)
    parser.add_argument("run", nargs=argparse.REMAINDER, metavar="RECIPE [options]")
    options = parser.parse_args(arguments)
    if min(options.processes, options.devices) < 1 or not options.run:
        parser.error("expected a RECIPE and at least one process with one device")
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"  # a free port
    running: list[subprocess.Popen] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    command = [sys.executable, "-m", module, *options.run]
    try:
        for index in range(options.processes):
            hosts = {"coordinator": coordinator, "count": options.processes, "index": index}
            host_options = [f"--hosts.{name}={value}" for name, value in hosts.items()]
            running.append(_start([*command, *host_options], options.devices))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        return _watch(running)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _start(command: list[str], devices: int) -> subprocess.Popen:
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        # Otherwise the terminal sends Ctrl-C too, and a second one stops without saving.
        process_group=0,
    )


def _watch(running: Sequence[subprocess.Popen]) -> int:
    """Wait until all have ended, or until `NOTICE_WITHIN` after the first failure."""
    failed: dict[int, int] = {}
    until = float("inf")
    while None in (statuses := [process.poll() for process in running]):
        for index, status in enumerate(statuses):
            if status and index not in failed:
                failed[index] = status
                print(f"Process {index} ended with status {status}.", file=sys.stderr)
                until = min(until, time.monotonic() + NOTICE_WITHIN)
        if time.monotonic() > until:
            print("Stopping the other processes.", file=sys.stderr)
            break
        time.sleep(0.1)
    first = next(filter(None, [*failed.values(), *statuses]), 0)
    return ExitStatus.HOST_LOST if first < 0 else first


if __name__ == "__main__":
    raise SystemExit(main())
