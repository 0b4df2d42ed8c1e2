# SPDX-License-Identifier: Apache-2.0
"""A polite end: the first signal lets the step finish and the state be saved."""

import signal
import sys
import threading
from types import FrameType


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
