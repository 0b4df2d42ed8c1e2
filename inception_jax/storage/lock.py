# SPDX-License-Identifier: Apache-2.0
"""A lock that lets only one process at a time write to a run folder."""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

HEARTBEAT_INTERVAL = 5.0  # seconds
# Seconds to wait for another host's heartbeat; shared file systems show changes late.
HEARTBEAT_TIMEOUT = 20.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    pid: int
    host: str
    boot: str  # boot id of the kernel; distinguishes machines of the same name
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class RunLock:
    """A context in which this process holds the lock file `path` of a run folder.

    The kernel locks the file and releases it in whatever way the process ends. On shared
    file systems, a kernel may not see the locks of other hosts. The file therefore also
    names its holder, which updates the modification time as a heartbeat.

    Entering the context raises ValueError, naming the holder, if another process holds the
    lock, and OSError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released = threading.Event()

    def __enter__(self) -> "RunLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_error:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            on_error.callback(os.close, file)
            locked = self._lock_by_kernel(file)
            this, holder = _this_process(), _read(file)
            if holder is not None:
                same_kernel = (holder.host, holder.boot) == (this.host, this.boot)
                if not (locked and same_kernel) and self._has_heartbeat():
                    raise ValueError(self._in_use_message(holder))
                print(
                    f"{self._path}: taken over from {holder}, which is no longer running.",
                    file=sys.stderr,
                )
            _write(file, json.dumps(asdict(this)))
            on_error.pop_all()
        self._file = file
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # the lock is released even if the disk is full
            _write(self._file, "")
        os.close(self._file)

    def _lock_by_kernel(self, file: int) -> bool:
        """Try to lock the file; return False if the file system does not support locks."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(self._in_use_message(_read(file))) from None
        except OSError:
            return False
        return True

    def _has_heartbeat(self) -> bool:
        """Return whether the modification time changes; clocks may differ between hosts."""
        print(
            f"{self._path}: waiting {HEARTBEAT_TIMEOUT:g} s for a heartbeat of its holder.",
            file=sys.stderr,
        )
        before, end = self._modified(), time.monotonic() + HEARTBEAT_TIMEOUT
        while time.monotonic() < end:
            time.sleep(min(1.0, HEARTBEAT_TIMEOUT / 10))
            if self._modified() != before:
                return True
        return False

    def _modified(self) -> int:
        with self._path.open() as file:  # on NFS, opening the file refreshes its attributes
            return os.fstat(file.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_INTERVAL):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _in_use_message(self, holder: Holder | None) -> str:
        return (
            f"{self._path.parent} is in use by {holder or 'another process'}; stop it, or "
            "choose another folder (--workdir)."
        )


def _this_process() -> Holder:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        boot=boot.read_text().strip() if boot.exists() else "",
        since=datetime.now().astimezone().isoformat(" ", timespec="seconds"),
    )


def _read(file: int) -> Holder | None:
    """Return the holder that a lock file names, if any."""
    try:
        return Holder(**json.loads(os.pread(file, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
