# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all, JSON lines, and errors of files."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from inception_jax.text import one_line


class CheckpointError(OSError):
    """A checkpoint or model cannot be written, or cannot be read back as it was saved."""

    exit_status = 74  # inception_jax.runtime.stopping.ExitStatus.DISK


@contextlib.contextmanager
def as_checkpoint_error(problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Convert errors of `kinds` (default: all) to a CheckpointError "problem: reason".

    A CheckpointError propagates unchanged.
    """
    expected = kinds or (Exception,)
    try:
        yield
    except CheckpointError:
        raise
    except expected as error:
        raise CheckpointError(f"{problem}: {one_line_error(error)}.") from error


def as_damaged(path: Path, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Convert errors of `kinds` (default: all) to a CheckpointError: `path` is damaged."""
    return as_checkpoint_error(f"{one_line(path)} is damaged", *kinds)


def one_line_error(error: BaseException) -> str:
    """Return the message of an error on one line, without a full stop.

    Messages of tensorstore list many long paths before the system error.
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


def check_output_path(path: Path, *suffixes: str) -> None:
    """Raise ValueError unless `path` is a new file, with one of `suffixes`, in a folder."""
    if path.suffix not in suffixes or not path.parent.is_dir():
        raise ValueError(
            f"expected a {' or '.join(suffixes)} file in an existing folder, got {path}."
        )
    check_new(path)


def check_new(path: Path) -> None:
    """Raise ValueError if there is a file, folder or link at `path`."""
    if os.path.lexists(path):
        raise ValueError(f"{one_line(path)} already exists; remove it or choose another.")


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, which is renamed to `path` at the end.

    If an error is raised inside the context, the temporary file or folder is removed.
    Raises CheckpointError if the disk cannot be written.
    """
    draft = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with as_checkpoint_error(f"{path} cannot be written", OSError, SafetensorError):
            yield draft
            draft.rename(path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append `record` to `path` as one line; numbers that are not finite become null.

    The line is written immediately, so a crash loses no earlier line. An incomplete last
    line, left by a crash, is removed first; otherwise this one would be appended to it.
    """
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    with path.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON lines file; an empty list if it does not exist.

    An incomplete last line, left by a crash, is ignored. Raises ValueError, with the line
    number, if another line is not JSON.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}); remove the line."
            ) from None
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
