# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are written whole or not at all, and never over others."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from inception_jax.storage.digests import CheckpointError


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
    """Where to write a file or a folder, which becomes `path` unless an error is raised.

    Raises CheckpointError where the disk does not take it.
    """
    draft = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        yield draft
        draft.rename(path)
    except CheckpointError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be written: {reason}.") from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)
