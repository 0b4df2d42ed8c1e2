# SPDX-License-Identifier: Apache-2.0
"""Ends a run that makes no progress, and says which process stands where.

A collective waits for ever for a process that is stuck or gone: without this, one bad host
holds all others without a word.
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
from inception_jax.runtime.stopping import HOST_LOST

LOOK_EVERY = 1.0  # seconds
WRITE_EVERY = 5.0  # seconds between two lines in the shared folder
# Seconds that process 0 stays after it found no progress. JAX ends the others when it goes,
# whose clocks may be a moment behind, and then the one that is stuck says nothing.
LEAVES_LAST = 5.0
# Kinds of `Goodput` that may take `start_timeout`: a large state on a slow disk takes long.
SLOW = ("init", "compile", "checkpoint")


class Watchdog:
    """Looks at `goodput` from a thread while the block runs.

    Progress is any change there. Without one for `hang_timeout` (or five times the longest
    wait so far; `start_timeout` in compilation, in saving and until the first update is
    done), all stacks are dumped and the process ends with `HOST_LOST`: a thread that is
    stuck cannot be asked to end itself.

    With several processes each writes where it stands into `folder`, which they share.
    """

    def __init__(
        self, goodput: Goodput, config: HostsConfig, folder: Path, host: tuple[int, int]
    ) -> None:
        self.goodput, self.config, self.folder = goodput, config, folder
        self.index, self.count = host
        self.step: int | None = None  # the newest update that is known to be done
        self._longest = self._written = 0.0
        self._last = "init", 0.0  # what was seen a moment ago
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._write("starting")
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._path(self.index).unlink(missing_ok=True)
        else:
            self._write(f"ended: {error}" if str(error) else f"ended: {error!r}")

    def limit(self) -> float:
        """Seconds without progress that are too many just now."""
        kind, _ = self.goodput.standing()
        if kind in SLOW or self.step is None:
            return self.config.start_timeout
        return max(self.config.hang_timeout, 5 * self._longest)

    def peers(self) -> str:
        """Where the other processes stood when they last said so, one to a line."""
        lines = []
        for index in range(self.count):
            if index == self.index:
                continue
            try:
                there = json.loads(self._path(index).read_text())
            except (OSError, ValueError):
                lines.append(f"process {index}: it left no word in {self.folder}")
                continue
            lines.append(
                f"process {index} ({there['host']}, pid {there['pid']}): "
                f"{there['stands']}; it said so {time.time() - there['time']:.0f} s ago"
            )
        return "\n".join(lines)

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self._look_once()

    def _look_once(self) -> None:
        kind, seconds = self.goodput.standing()
        before, waited = self._last
        if seconds < waited and before not in SLOW:  # that wait is over
            self._longest = max(self._longest, waited)
        self._last = kind, seconds
        if seconds > self.limit():
            self._end(kind, seconds)
        if time.monotonic() - self._written > WRITE_EVERY:
            self._write(self._stands(kind, seconds))

    def _stands(self, kind: str, seconds: float) -> str:
        where = "no update" if self.step is None else f"update {self.step}"
        return f"{where} done, {kind.replace('_', ' ')} for {seconds:.0f} s"

    def _end(self, kind: str, seconds: float) -> None:
        stands = self._stands(kind, seconds)
        self._write(f"hung: {stands}")
        peers = f"The others:\n{self.peers()}\n" if self.count > 1 else ""
        print(
            f"\nNo progress: process {self.index} of {self.count} ({socket.gethostname()}, "
            f"pid {os.getpid()}): {stands}. {peers}It ends now, and the same "
            "command (on all hosts) goes on from the last checkpoint; if it was only slow, "
            "raise --hosts.hang-timeout. Its stacks:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self.index == 0 and self.count > 1:
            time.sleep(LEAVES_LAST)
        os._exit(HOST_LOST)

    def _write(self, stands: str) -> None:
        self._written = time.monotonic()
        if self.count == 1:
            return
        line = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        draft = self._path(self.index).with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(line | {"stands": stands}))
            draft.replace(self._path(self.index))
        except OSError:
            return  # it is for the others to read; training goes on without it

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.json"
