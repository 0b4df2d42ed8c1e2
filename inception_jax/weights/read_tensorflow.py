# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's checkpoints: one file (V1), or an index and its data files (V2)."""

import os
import re
from pathlib import Path

import numpy as np

from inception_jax.storage.digests import CheckpointError
from inception_jax.text import one_line

# Ends of a V1 file and of a V2 index: both are tables as LevelDB writes them.
TABLE = bytes.fromhex("57fb808b247547db")
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def checkpoint_prefix(path: Path) -> Path:
    """What TensorFlow calls a checkpoint whose prefix or one of whose files is `path`."""
    return path.with_name(PART.sub("", path.name))


def data_files(path: Path) -> list[Path]:
    """The files with the arrays of a checkpoint in parts; none: `path` is nothing such."""
    prefix = checkpoint_prefix(path)
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        return []
    found = (x for x in prefix.parent.iterdir() if checkpoint_prefix(x) == prefix)
    return sorted(x for x in found if ".data-" in x.name)


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the prefix of a checkpoint, or a file of one."""
    if checkpoint_prefix(path).with_name(f"{checkpoint_prefix(path).name}.index").is_file():
        return True
    if not path.is_file() or path.stat().st_size < len(TABLE):
        return False
    with path.open("rb") as stream:
        stream.seek(-len(TABLE), os.SEEK_END)
        return stream.read() == TABLE


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """All arrays by name. Raises CheckpointError where the checksum of one is another,
    ImportError without the `tensorflow` extra."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes on this machine's CPU
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        raise ImportError(
            f"{one_line(path)} is TensorFlow's, and tensorflow is missing: "
            'pip install "inception_jax[tensorflow]"'
        ) from None
    name = None
    try:
        reader = tf.train.load_checkpoint(str(checkpoint_prefix(path)))
        arrays = {}
        for name in sorted(reader.get_variable_to_shape_map()):
            arrays[name] = np.asarray(reader.get_tensor(name))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        what = f"{one_line(name)} in {one_line(path)}" if name else one_line(path)
        reason = one_line(error).split("\\n")[0].rstrip(".")
        raise CheckpointError(f"{what} is damaged: {reason}.") from error
    return arrays
