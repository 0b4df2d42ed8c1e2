# SPDX-License-Identifier: Apache-2.0
"""The error for files that cannot be written or read back."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from inception_jax.text import one_line


class CheckpointError(OSError):
    """A checkpoint or model cannot be written, or cannot be read back as it was saved."""

    exit_status = 74  # inception_jax.runtime.stopping.ExitStatus.DISK


@contextlib.contextmanager
def as_checkpoint_error(problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of `kinds` (default: all) into a CheckpointError "problem: reason".

    A CheckpointError is passed on unchanged.
    """
    expected = kinds or (Exception,)
    try:
        yield
    except CheckpointError:
        raise
    except expected as error:
        raise CheckpointError(f"{problem}: {one_line_error(error)}.") from error


def as_damaged(path: Path, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Turn errors of `kinds` (default: all) into a CheckpointError: `path` is damaged."""
    return as_checkpoint_error(f"{one_line(path)} is damaged", *kinds)


def one_line_error(error: BaseException) -> str:
    """Return the message of an error on one line, without the full stop.

    Messages of tensorstore list many long paths before the error of the system.
    """
    message = str(error)
    if code := re.search(r"os_error_code='(\d+)'", message):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = message.split("\n")[0].split(" [tensorstore")[0].split(" [source")[0]
    message = re.sub(r'"/[^"]*/([^"/]+)/?"', r'"\1"', message)
    message = one_line(message[:300].rstrip("."))
    if not message or isinstance(error, LookupError | TypeError | AttributeError):
        return f"{type(error).__name__}: {message}"
    return message
