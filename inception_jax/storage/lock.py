# SPDX-License-Identifier: Apache-2.0
"""One process at a time writes to the folder of a run."""

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

# Seconds between signs of life of who holds a lock, and how long another host looks for
# one; files of a shared file system may be seen a few seconds late.
BEAT = 5.0
WATCH = 20.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    host: str
    boot: str  # of the kernel; tells machines apart that have the same name
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class RunLock:
    """Holds the lock file `path`, in a run's folder, from `with` to its end.

    The kernel locks the file, and lets go of it however the process ends. Where the
    kernels of several hosts do not tell one another, as on some shared file systems, the
    file says who holds it, and its time moves while that one lives.

    Entering raises ValueError, which says who, where another process holds it; OSError
    where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()

    def __enter__(self) -> "RunLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_error:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            on_error.callback(os.close, file)
            alone = self._locked_by_kernel(file)
            me, holder = _this_process(), _read(file)
            if holder is not None:
                of_this_kernel = alone and (holder.host, holder.boot) == (me.host, me.boot)
                if not of_this_kernel and self._lives():
                    raise ValueError(self._in_use(holder))
                print(
                    f"{self._path}: took over from {holder}, which is gone.",
                    file=sys.stderr,
                )
            _write(file, json.dumps(asdict(me)))
            on_error.pop_all()
        self._file = file
        self._ended.clear()
        self._beating = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beating.join()
        with contextlib.suppress(OSError):  # a full disk is no reason to keep the lock
            _write(self._file, "")
        os.close(self._file)

    def _locked_by_kernel(self, file: int) -> bool:
        """False where the file system knows no locks."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(self._in_use(_read(file))) from None
        except OSError:
            return False
        return True

    def _lives(self) -> bool:
        """Whether the file's time moves; no clocks of two hosts are compared."""
        print(
            f"{self._path}: looking for {WATCH:g} s whether its holder lives.",
            file=sys.stderr,
        )
        before, end = self._touched(), time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH / 10))
            if self._touched() != before:
                return True
        return False

    def _touched(self) -> int:
        with self._path.open() as file:  # opened anew: NFS then asks the server
            return os.fstat(file.fileno()).st_mtime_ns

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _in_use(self, holder: Holder | None) -> str:
        return (
            f"{self._path.parent} is written to by {holder or 'another process'}; stop "
            "that first, or choose another folder (--workdir)."
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
    """Who is written in a lock file; None for nobody."""
    try:
        return Holder(**json.loads(os.pread(file, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _write(file: int, words: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, words.encode(), 0)
