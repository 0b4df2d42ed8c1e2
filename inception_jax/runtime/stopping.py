# SPDX-License-Identifier: Apache-2.0
"""How a run or command ends: its exit status, and a clean stop after a signal."""

import signal
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import Any

from inception_jax.text import printable


class ExitStatus(IntEnum):
    """Exit statuses of the programs of this package."""

    DONE = 0
    BAD_INPUT = 2  # options, files or data are invalid or inconsistent
    NOT_FINITE = 3  # the loss or a gradient is NaN or infinite
    DISK = 74  # a file cannot be written, or is damaged (EX_IOERR of sysexits.h)
    RUN_AGAIN = 75  # stopped and saved: repeat the command (EX_TEMPFAIL)
    HOST_LOST = 76  # a process hung or died: repeat the command on all hosts
    INTERRUPTED = 130  # stopped at once; the last checkpoint remains


def run_command(
    name: str,
    action: Callable[[], int | None],
    *,
    if_interrupted: str,
    extra: str | None = "train",
    os_error: int = ExitStatus.BAD_INPUT,
) -> int:
    """Run `action`, print an expected error on stderr, and return the exit status.

    An exception with an attribute `exit_status`, such as CheckpointError, gives that
    status; ValueError, TypeError and ImportError give `BAD_INPUT`, OSError gives
    `os_error`, and Ctrl-C gives `INTERRUPTED`. Others propagate.

    Args:
      name: the name of the command, with which the message begins.
      action: a function that returns an exit status, or None for `DONE`.
      if_interrupted: text of the message after Ctrl-C, such as "nothing was written".
      extra: the extra of this package that installs a missing module; None for no hint.
      os_error: the status after an OSError without `exit_status`.
    """
    try:
        return action() or ExitStatus.DONE
    except KeyboardInterrupt:
        print(f"\nInterrupted; {if_interrupted}.", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_status"):
            status = error.exit_status
        elif isinstance(error, OSError):
            status = os_error
        elif isinstance(error, ValueError | TypeError | ImportError):
            status = ExitStatus.BAD_INPUT
        else:
            raise
        message = str(error)
        if extra and isinstance(error, ModuleNotFoundError) and error.name:
            message = f'{error.name} is missing: pip install "inception_jax[{extra}]"'
        print(f"{name}: {printable(message)}", file=sys.stderr)
        return status


class StopSignal:
    """A context in which Ctrl-C or SIGTERM sets `requested`; a second one interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            f"\n{signal.Signals(number).name}: saving after this step; a second signal "
            "stops the run at once, without saving.",
            file=sys.stderr,
        )
