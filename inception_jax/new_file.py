# SPDX-License-Identifier: Apache-2.0
"""Files that a command writes: whole or not at all, and never over another."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from inception_jax.digests import CheckpointError


def check_new(path: Path, *endings: str) -> None:
    """Raise ValueError unless a file could be written there that has one of `endings`."""
    if path.suffix not in endings or not path.parent.is_dir():
        raise ValueError(
            f"expected a file {' or '.join(endings)} in a folder that exists, got {path}."
        )
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already; remove it or choose another.")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end and is removed on an error.

    Raises CheckpointError where the disk does not take it.
    """
    draft = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        yield draft
        draft.rename(path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
