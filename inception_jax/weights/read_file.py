# SPDX-License-Identifier: Apache-2.0
"""Readers for the weight files of other libraries: arrays by the library's own names.

The format is recognised by the first or last bytes of a file, not by its name. No code in a
file is run: PyTorch reads with weights_only=True, NumPy without pickle.
"""

import hashlib
import io
import struct
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from inception_jax.data.optional import require
from inception_jax.storage.files import as_damaged
from inception_jax.text import one_line
from inception_jax.weights import keras_file, read_tensorflow

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
SAFETENSORS = b"\0\0\0\0{"  # the upper bytes of the header's length, and its first byte
PICKLE = b"\x80"  # protocol 2 and later: PyTorch before 1.6

# In earlier versions a file can run code despite weights_only=True: CVE-2025-32434 and
# CVE-2026-24747.
SAFE_TORCH = (2, 10)

Arrays = dict[str, np.ndarray]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of all data files of a TensorFlow checkpoint."""
    check_exists(path)
    digest = hashlib.sha256()
    for file in read_tensorflow.data_files(path) or [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_exists(path: Path) -> None:
    """Raise ValueError unless `path` is a file or the prefix of a TensorFlow checkpoint."""
    if not path.is_file() and not read_tensorflow.is_checkpoint(path):
        raise ValueError(
            f"{one_line(path)} is not a file or the prefix of a TensorFlow checkpoint."
        )


def read_arrays(path: Path) -> Arrays:
    """Read all arrays of a file, by the library's names.

    For a TensorFlow checkpoint, `path` is its prefix or any of its files. Keras layers are
    named as in the first model that a process builds.

    Raises ValueError if the file does not exist, its format is not supported or it contains
    anything other than arrays, CheckpointError if it is damaged, or ImportError if the
    library that reads it is not installed.
    """
    check_exists(path)
    if read_tensorflow.is_checkpoint(path):
        return read_tensorflow.read_checkpoint(path)
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(HDF5):
        return keras_file.read_layers(path, path)
    if start.startswith(ZIP):
        return _read_zip(path)
    if start.endswith(SAFETENSORS):
        return _read_safetensors(path)
    if start.startswith(PICKLE):
        return _read_torch(path)
    raise ValueError(
        f"{one_line(path)} is not a supported weight file, or its start or end is "
        "damaged; expected safetensors, .npz, PyTorch's .pth, Keras's .h5 or .keras, or a "
        "TensorFlow checkpoint."
    )


def _read_zip(path: Path) -> Arrays:
    errors = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError)
    with as_damaged(path, OSError, *errors), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if keras_file.WEIGHTS in names:
            stream = io.BytesIO(archive.read(keras_file.WEIGHTS))
            return keras_file.read_layers(stream, path)
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"checksum mismatch of {one_line(damaged)}")
    if any(name.endswith("/data.pkl") for name in names):
        return _read_torch(path)
    return _read_npz(path)


def _read_safetensors(path: Path) -> Arrays:
    try:
        with as_damaged(path, OSError, SafetensorError):
            return safetensors.numpy.load_file(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{one_line(path)} has a number type unknown to NumPy: {one_line(error)}."
        ) from None


def _read_npz(path: Path) -> Arrays:
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                arrays[name] = np.asarray(file[name])
            except ValueError as error:
                raise ValueError(
                    f"{one_line(path)}: {one_line(name)} is not an array of numbers: "
                    f"{one_line(error)}"
                ) from None
    return arrays


def _read_torch(path: Path) -> Arrays:
    torch = require("torch", "torch", f"{one_line(path)} is a PyTorch file, and ")
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise ImportError(
            f"torch {torch.__version__} may run code that is in a file (CVE-2026-24747): "
            "install 2.10 or later."
        )
    errors = (
        *(RuntimeError, EOFError, LookupError, AssertionError, struct.error),
        *(ValueError, TypeError, AttributeError),
    )
    try:
        with as_damaged(path, OSError, *errors), warnings.catch_warnings(action="ignore"):
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = one_line(error).split("\\n")[0]
        raise ValueError(
            f"{one_line(path)} contains more than arrays; save the model's state_dict() "
            f"instead ({reason})"
        ) from None
    if not isinstance(state_dict, dict):
        raise ValueError(
            f"{one_line(path)} holds a {type(state_dict).__name__}; expected a state_dict."
        )
    return {name: _to_numpy(path, name, x) for name, x in state_dict.items()}


def _to_numpy(path: Path, name: object, x: Any) -> np.ndarray:
    import torch

    if not isinstance(x, torch.Tensor) or not isinstance(name, str):
        raise ValueError(
            f"{one_line(path)}: {one_line(name)} has type {type(x).__name__}; expected an "
            "array. Save only the model's state_dict()."
        )
    if x.dtype == torch.bfloat16 or x.layout != torch.strided or x.is_quantized:
        raise ValueError(
            f"{one_line(path)}: {one_line(name)} is {x.dtype}, {x.layout}; expected "
            "torch.float32, dense."
        )
    return x.detach().numpy()
