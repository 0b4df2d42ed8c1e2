# SPDX-License-Identifier: Apache-2.0
"""The folder of one checkpoint, which Orbax writes and reads.

Orbax writes a folder completely or not at all, but it does not detect a flipped bit in an
array. Digests of all leaves are therefore stored with the arrays and compared on reading.
Only this module uses Orbax.
"""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from inception_jax.storage.digests import Record, flatten_with_paths
from inception_jax.storage.files import as_damaged
from inception_jax.text import first_few

# Part of the name of a folder that is being written or removed.
TEMPORARY = ocp.utils.TMP_DIR_SUFFIX


def check_checkpoint_path(folder: Path) -> None:
    """Raise ValueError for a path where checkpoints could be written but not read.

    Orbax interprets a path as a glob pattern when it looks for the arrays of a checkpoint,
    and tensorstore reads a backslash as a slash. Both then miss the arrays silently.
    """
    path = str(folder.absolute())
    faults = sorted(set("*?[\\") & set(path))
    if os.fsencode(path) != path.encode(errors="replace"):
        faults.append("bytes that are not UTF-8")
    if faults:
        raise ValueError(
            f"{path!r} contains {' and '.join(faults)}, so checkpoints in it could not be "
            "read back; choose another folder."
        )


class StepFiles:
    """Writes and reads checkpoint folders, whose names are the steps.

    In a run of several processes only process 0 writes; the others neither take part
    nor wait.
    """

    def __init__(self) -> None:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        self._orbax = ocp.Checkpointer(handler, multiprocessing_options=alone)

    def write(self, path: Path, state: Any) -> None:
        """Write a state of NumPy arrays; raises any error of Orbax and tensorstore."""
        # In any other process, Orbax would silently skip NumPy arrays.
        assert jax.process_index() == 0, "only process 0 writes checkpoints"
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            digests=ocp.args.JsonSave(Record.of(int(path.name), state).to_json()),
        )
        self._orbax.save(path, args=items)

    def record(self, path: Path) -> Record:
        """Read the record; raises CheckpointError if it is damaged."""
        with as_damaged(path):
            items = ocp.args.Composite(digests=ocp.args.JsonRestore())
            record = Record.from_json(self._orbax.restore(path, args=items)["digests"])
            if record.step != int(path.name):
                raise ValueError(f"it was saved as step {record.step}")
        return record

    def arrays(self, path: Path) -> dict[str, np.ndarray]:
        """Read and verify the leaves by path; raises CheckpointError if one is damaged."""
        record = self.record(path)
        with as_damaged(path):
            items = ocp.args.Composite(state=ocp.args.StandardRestore())
            leaves = flatten_with_paths(self._orbax.restore(path, args=items)["state"])
            arrays = {name: np.asarray(x) for name, x in leaves.items()}
            if damaged := record.damaged_leaves(arrays):
                raise ValueError(f"checksum mismatch in {first_few(damaged)}")
        return {name: arrays[name] for name in record.leaves}


def _silence_repeated_errors() -> None:
    """Hide the tracebacks, one per array, of errors that Orbax also raises.

    Orbax logs them. After a damaged array or on a full disk, it closes its event loop
    before tensorstore has finished the other arrays, whose errors then go unhandled.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    # Some of tensorstore's errors contain its name, others only the name of its format.
    logging.getLogger("asyncio").addFilter(
        lambda record: not re.search("tensorstore|OCDBT database", record.getMessage())
    )
    original_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            original_hook(unraisable)

    sys.unraisablehook = hook


_silence_repeated_errors()
