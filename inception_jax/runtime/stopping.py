# SPDX-License-Identifier: Apache-2.0
"""How a run ends: politely after a signal, and with which exit status."""

import signal
import sys
import threading
from types import FrameType

# Exit status of a run. 0: done; 2: bad input, as of every command.
NOT_FINITE = 3  # the loss is no number any more
DISK = 74  # something cannot be written or read back (EX_IOERR of sysexits.h)
RUN_AGAIN = 75  # stopped and saved; the same command goes on (EX_TEMPFAIL)
HOST_LOST = 76  # a process hung or died; run it again on all hosts
INTERRUPTED = 130  # at once, by a second Ctrl-C; the last checkpoint stands


class StopSignal:
    """`requested` turns true on Ctrl-C or SIGTERM; a second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        name = signal.Signals(number).name
        print(
            f"\n{name}: saving after this step; once more ends it unsaved.", file=sys.stderr
        )
