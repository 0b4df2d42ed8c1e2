# SPDX-License-Identifier: Apache-2.0
"""The files of one checkpoint: the only file that knows Orbax.

Orbax writes a folder whole or not at all, but does not notice where a bit of an array is
another one when it is read. So the digests of all leaves stand beside the arrays, and what
is read is compared with them.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from inception_jax.storage.digests import CheckpointError, Record, by_name, some

# In the name of a folder that is not complete, or not complete any more.
TEMPORARY = ocp.utils.TMP_DIR_SUFFIX


def check_path(folder: Path) -> None:
    """Raise ValueError on a path under which what is written would not be found again.

    Orbax takes the path for a pattern where it looks for the arrays of a checkpoint, and
    tensorstore a backslash for a slash: the arrays are missing, and nothing says so.
    """
    path = str(folder.absolute())
    found = sorted(set("*?[\\") & set(path))
    if os.fsencode(path) != path.encode(errors="replace"):
        found.append("bytes that are not UTF-8")
    if found:
        raise ValueError(
            f"{path!r} has {' and '.join(found)} in it, under which no checkpoint would be "
            "found again; choose another folder."
        )


class StepFiles:
    """Writes and reads folders of one checkpoint each.

    Of several processes of a run only process 0 writes; no other takes part, or waits.
    """

    def __init__(self) -> None:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        self._orbax = ocp.Checkpointer(handler, multiprocessing_options=alone)

    def write(self, path: Path, step: int, state: Any) -> None:
        """`state`, of NumPy arrays; raises whatever Orbax and tensorstore raise."""
        # Orbax's other processes write no NumPy arrays, and do not say so.
        assert jax.process_index() == 0, "only process 0 writes checkpoints"
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            digests=ocp.args.JsonSave(Record.of(step, state).to_json()),
        )
        self._orbax.save(path, args=items)

    def record(self, path: Path) -> Record:
        """Raises CheckpointError where it cannot be read or is not as it was written."""
        with _said_of(path):
            found = self._orbax.restore(
                path, args=ocp.args.Composite(digests=ocp.args.JsonRestore())
            )
            return Record.from_json(found["digests"])

    def arrays(self, path: Path, record: Record) -> dict[str, np.ndarray]:
        """The leaves by name, as they were saved; raises CheckpointError."""
        with _said_of(path):
            found = self._orbax.restore(
                path, args=ocp.args.Composite(state=ocp.args.StandardRestore())
            )
            arrays = {name: np.asarray(x) for name, x in by_name(found["state"]).items()}
            if damaged := record.damaged(arrays):
                raise CheckpointError(f"other values than were saved in {some(damaged)}")
        return {name: arrays[name] for name in record.leaves}


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong while `path` is read as a CheckpointError that says so.

    Orbax and tensorstore raise of all kinds where files are damaged.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {in_short(error)}.") from error


def in_short(error: BaseException) -> str:
    """In a line. Tensorstore's own ends with the system's error, after many long paths."""
    words = str(error)
    if code := re.search(r"os_error_code='(\d+)'", words):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = words.split("\n")[0].split(" [tensorstore")[0].split(" [source")[0]
    words = re.sub(r'"/[^"]*/([^"/]+)/?"', r'"\1"', words)
    return f"{type(error).__name__}: {words[:300].rstrip('.')}"


def _say_it_once() -> None:
    """Keep from standard error the traces, one for each array, of what Orbax raises.

    It logs them; its event loops close before tensorstore has finished with the arrays
    that come after a damaged one or do not fit any more; and nobody looks at those.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    # Some of tensorstore's errors name it, others only its format.
    logging.getLogger("asyncio").addFilter(
        lambda record: not re.search("tensorstore|OCDBT database", record.getMessage())
    )
    show = sys.unraisablehook

    def unless_closed(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = unless_closed


_say_it_once()
