# SPDX-License-Identifier: Apache-2.0
"""A thread that ends a run that makes no progress, and prints the status of each process.

A collective waits forever for a process that is stuck or gone. Without a watchdog, one bad
host would silently block all others.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from inception_jax.config import HostsConfig
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.stopping import ExitStatus

CHECK_INTERVAL = 1.0  # seconds
WRITE_INTERVAL = 5.0  # seconds between updates of a status file
# Seconds that process 0 waits before it exits. Its exit makes JAX abort the others at once,
# before a stuck one whose timer is slightly behind could print its stack traces.
PROCESS_0_DELAY = 5.0
# Activities that may take `start_timeout`; a large state may be saved to a slow disk.
SLOW = ("init", "compile", "checkpoint")


class Watchdog:
    """Watches `goodput` from a thread while the context is open.

    Progress is the beginning or the end of any activity, such as a step. After `timeout()`
    seconds without one, the watchdog prints all stack traces and exits the process with
    `HOST_LOST`, because a stuck thread cannot be stopped. With several processes, each
    writes its status to a file in `folder`, which they share.
    """

    def __init__(
        self, goodput: Goodput, config: HostsConfig, folder: Path, index: int, count: int
    ) -> None:
        self.goodput, self.config, self.folder = goodput, config, folder
        self.index, self.count = index, count  # of this process, and of all
        self.step: int | None = None  # the newest completed step
        self._longest_wait = self._last_written = 0.0
        self._last_seen = "init", 0.0  # activity and its seconds at the last check
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._write_status("starting")
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        if error is None:
            self._status_file(self.index).unlink(missing_ok=True)
        else:
            self._write_status(f"ended: {error}" if str(error) else f"ended: {error!r}")

    def timeout(self) -> float:
        """Return the seconds after which the current activity is considered stuck.

        `start_timeout` until the first step is complete and for `SLOW` activities;
        otherwise `hang_timeout`, or five times the longest wait so far if that is longer.
        """
        if self._limit() == "start_timeout":
            return self.config.start_timeout
        return max(self.config.hang_timeout, 5 * self._longest_wait)

    def _limit(self) -> str:
        """Return the name of the setting that limits the current activity."""
        activity, _ = self.goodput.current_activity()
        is_slow = activity in SLOW or self.step is None
        return "start_timeout" if is_slow else "hang_timeout"

    def peers(self) -> str:
        """Return the last status of each other process, one per line."""
        lines = []
        for index in range(self.count):
            if index == self.index:
                continue
            try:
                peer = json.loads(self._status_file(index).read_text())
            except (OSError, ValueError):
                lines.append(f"process {index}: no status file in {self.folder}")
                continue
            lines.append(
                f"process {index} ({peer['host']}, pid {peer['pid']}): {peer['stands']} "
                f"({time.time() - peer['time']:.0f} s ago)"
            )
        return "\n".join(lines)

    def _watch(self) -> None:
        while not self._closed.wait(CHECK_INTERVAL):
            self._check()

    def _check(self) -> None:
        activity, seconds = self.goodput.current_activity()
        last_activity, last_seconds = self._last_seen
        if seconds < last_seconds and last_activity not in SLOW:  # that wait has ended
            self._longest_wait = max(self._longest_wait, last_seconds)
        self._last_seen = activity, seconds
        if seconds > self.timeout():
            self._end(activity, seconds)
        if time.monotonic() - self._last_written > WRITE_INTERVAL:
            self._write_status(self._status(activity, seconds))

    def _status(self, activity: str, seconds: float) -> str:
        step = "no step" if self.step is None else f"step {self.step}"
        return f"{step} done; activity: {activity.replace('_', ' ')} for {seconds:.0f} s"

    def _end(self, activity: str, seconds: float) -> None:
        status = self._status(activity, seconds)
        self._write_status(f"hung: {status}")
        peers = f"The others:\n{self.peers()}\n" if self.count > 1 else ""
        print(
            f"\nNo progress: process {self.index} of {self.count} ({socket.gethostname()}, "
            f"pid {os.getpid()}): {status}. {peers}This process ends. Repeat the command "
            "(on all hosts) to resume from the last checkpoint. If the run was only slow, "
            f"raise --hosts.{self._limit().replace('_', '-')}. Stack traces of this "
            "process:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self.index == 0 and self.count > 1:
            time.sleep(PROCESS_0_DELAY)
        os._exit(ExitStatus.HOST_LOST)

    def _write_status(self, status: str) -> None:
        self._last_written = time.monotonic()
        if self.count == 1:
            return
        record = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        draft = self._status_file(self.index).with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(record | {"stands": status}))
            draft.replace(self._status_file(self.index))
        except OSError:
            return  # training continues; only the other processes read the file

    def _status_file(self, index: int) -> Path:
        return self.folder / f"{index}.json"
