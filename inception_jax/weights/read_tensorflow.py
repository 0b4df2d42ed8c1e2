# SPDX-License-Identifier: Apache-2.0
"""Reader for TensorFlow checkpoints: one file (V1), or an index and data files (V2)."""

import os
import re
from pathlib import Path

import numpy as np

from inception_jax.data.optional import require
from inception_jax.storage.files import CheckpointError
from inception_jax.text import one_line

# The last bytes of a LevelDB table, which V1 files and V2 indices are.
TABLE = bytes.fromhex("57fb808b247547db")
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def checkpoint_prefix(path: Path) -> Path:
    """Return the prefix, TensorFlow's name, of the checkpoint with this file or prefix."""
    return path.with_name(PART.sub("", path.name))


def _has_index(prefix: Path) -> bool:
    return prefix.with_name(f"{prefix.name}.index").is_file()


def data_files(path: Path) -> list[Path]:
    """Return the sorted data files of a V2 checkpoint, or an empty list otherwise."""
    prefix = checkpoint_prefix(path)
    if not _has_index(prefix):
        return []
    parts = (x for x in prefix.parent.iterdir() if checkpoint_prefix(x) == prefix)
    return sorted(x for x in parts if ".data-" in x.name)


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is the prefix of a checkpoint, or a file of one."""
    if _has_index(checkpoint_prefix(path)):
        return True
    if not path.is_file() or path.stat().st_size < len(TABLE):
        return False
    with path.open("rb") as stream:
        stream.seek(-len(TABLE), os.SEEK_END)
        return stream.read() == TABLE


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays by name, with their checksums verified.

    Raises CheckpointError if it is damaged, or ImportError without `tensorflow`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no messages about the CPU
    need = f"{one_line(path)} is a TensorFlow checkpoint, and "
    tf = require("tensorflow", "tensorflow", need)
    name = None
    try:
        reader = tf.train.load_checkpoint(str(checkpoint_prefix(path)))
        arrays = {}
        for name in sorted(reader.get_variable_to_shape_map()):
            arrays[name] = np.asarray(reader.get_tensor(name))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        where = f"{one_line(name)} in {one_line(path)}" if name else one_line(path)
        reason = one_line(error).split("\\n")[0].rstrip(".")
        raise CheckpointError(f"{where} is damaged: {reason}.") from error
    return arrays
