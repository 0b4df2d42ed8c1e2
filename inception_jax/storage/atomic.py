# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are written completely or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from inception_jax.storage.errors import as_checkpoint_error
from inception_jax.text import one_line


def check_output_path(path: Path, *suffixes: str) -> None:
    """Raise ValueError unless `path` is a new file, with one of `suffixes`, in a folder."""
    if path.suffix not in suffixes or not path.parent.is_dir():
        raise ValueError(
            f"expected a file {' or '.join(suffixes)} in an existing folder, got {path}."
        )
    check_new(path)


def check_new(path: Path) -> None:
    """Raise ValueError if there is a file, folder or link at `path`."""
    if os.path.lexists(path):
        raise ValueError(f"{one_line(path)} already exists; remove it or choose another.")


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary path for a file or folder, which is renamed to `path` at the end.

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
