# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.launch.local [--processes N] [--devices D] RECIPE [options]`: one
run of several processes on this machine's CPU, as a rehearsal for a pod.

RECIPE and its options are those of `experiments.run`. Ctrl-C and SIGTERM go to all
processes, which save and end together; where one fails the others are ended as well.
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

# Seconds for the others to notice that one is gone (heartbeat_timeout), and to say so.
NOTICE_WITHIN = 75.0


def main(arguments: Sequence[str] | None = None, module: str = "experiments.run") -> int:
    """Exit status: that of the first process to fail, or 76 if a signal ended it."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch.local",
        description=__doc__.split(": ", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, help="default: 2")
    parser.add_argument("--devices", type=int, default=2, help="of each; default: 2")
    parser.add_argument("run", nargs=argparse.REMAINDER, metavar="RECIPE [options]")
    options = parser.parse_args(arguments)
    if min(options.processes, options.devices) < 1 or not options.run:
        parser.error("a RECIPE, and at least one process of one device, are needed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"  # free again just below
    running: list[subprocess.Popen] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    command = [sys.executable, "-m", module, *options.run]
    try:
        for index in range(options.processes):
            hosts = {"coordinator": coordinator, "count": options.processes, "index": index}
            given = [f"--hosts.{name}={value}" for name, value in hosts.items()]
            running.append(_start([*command, *given], options.devices))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
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
        # Out of reach of the terminal: a Ctrl-C must come once, since a second one means
        # to end without saving.
        process_group=0,
    )


def _watch(running: Sequence[subprocess.Popen]) -> int:
    """Wait for all, or for `NOTICE_WITHIN` after the first that failed."""
    failed: dict[int, int] = {}
    until = float("inf")
    while None in (statuses := [process.poll() for process in running]):
        for index, status in enumerate(statuses):
            if status and index not in failed:
                failed[index] = status
                print(f"Process {index} ended: {status}.", file=sys.stderr)
                until = min(until, time.monotonic() + NOTICE_WITHIN)
        if time.monotonic() > until:
            print("The others do not end by themselves.", file=sys.stderr)
            break
        time.sleep(0.1)
    first = next(filter(None, [*failed.values(), *statuses]), 0)
    return ExitStatus.HOST_LOST if first < 0 else first


if __name__ == "__main__":
    raise SystemExit(main())
