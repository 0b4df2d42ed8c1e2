# SPDX-License-Identifier: Apache-2.0
"""Reading other libraries' files of weights: arrays by the names they have there.

What a file is, its first or last bytes say. Nothing in a file is run: no pickle of Python's
own, no code.
"""

import contextlib
import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from inception_jax.storage.digests import CheckpointError
from inception_jax.text import one_line
from inception_jax.weights import read_keras, read_tensorflow

if TYPE_CHECKING:
    import torch

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
SAFETENSORS = b"\0\0\0\0{"  # end of the header's length in eight bytes, and the header
PICKLE = b"\x80"  # of protocol 2 and later: torch before 1.6

# The first whose weights_only=True runs nothing: CVE-2025-32434, CVE-2026-24747.
SAFE_TORCH = (2, 10)

Arrays = dict[str, np.ndarray]


def file_sha256(path: Path) -> str:
    """Of the file; of a TensorFlow checkpoint in parts: of its data files, one after
    another, which is that of the only one there mostly is."""
    check_exists(path)
    digest = hashlib.sha256()
    for file in read_tensorflow.data_files(path) or [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_exists(path: Path) -> None:
    """Raise ValueError where `path` is neither a file nor the prefix of a checkpoint."""
    if not path.is_file() and not read_tensorflow.is_checkpoint(path):
        raise ValueError(f"there is no file {one_line(path)}.")


def read_arrays(path: Path) -> Arrays:
    """All arrays of a file, by name; a TensorFlow checkpoint is named by its prefix or any
    of its parts.

    Keras's layers get the names of a model built first in its process.

    Raises ValueError where there is no such file, it is of another kind or holds other
    things than arrays; CheckpointError where it is damaged; ImportError where what reads
    it is missing.
    """
    check_exists(path)
    if read_tensorflow.is_checkpoint(path):
        return read_tensorflow.read_checkpoint(path)
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(HDF5):
        return read_keras.read_layers(path, path)
    if start.startswith(ZIP):
        return _read_zip(path)
    if start.endswith(SAFETENSORS):
        return _of_safetensors(path)
    if start.startswith(PICKLE):
        return _read_torch(path)
    raise ValueError(
        f"{one_line(path)} is no file of weights that can be read, or an end of it is "
        "damaged: expected safetensors, .npz, PyTorch's .pth, Keras's .h5 or .keras, or a "
        "TensorFlow checkpoint."
    )


def _read_zip(path: Path) -> Arrays:
    errors = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError)
    with errors_as_damage(path, *errors), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if read_keras.WEIGHTS in names:
            return read_keras.read_layers(
                io.BytesIO(archive.read(read_keras.WEIGHTS)), path
            )
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{one_line(damaged)} has another checksum")
    if any(name.endswith("/data.pkl") for name in names):
        return _read_torch(path)
    return _of_npz(path)


def _of_safetensors(path: Path) -> Arrays:
    try:
        with errors_as_damage(path, SafetensorError):
            return safetensors.numpy.load_file(path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{one_line(path)} holds a type of numbers that NumPy does not have: "
            f"{one_line(error)}."
        ) from None


def _of_npz(path: Path) -> Arrays:
    arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                arrays[name] = np.asarray(file[name])
            except ValueError as error:
                raise ValueError(
                    f"{one_line(path)}: {one_line(name)} is no array of numbers: "
                    f"{one_line(error)}"
                ) from None
    return arrays


def _read_torch(path: Path) -> Arrays:
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError(
            f"{one_line(path)} is PyTorch's, and torch is missing: "
            'pip install "inception_jax[torch]"'
        ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise ImportError(
            f"torch {torch.__version__} can be made to run what is in a file "
            "(CVE-2026-24747): install 2.10 or later."
        )
    try:
        errors = (RuntimeError, EOFError, LookupError, AssertionError, struct.error)
        errors += (ValueError, TypeError, AttributeError)
        with errors_as_damage(path, *errors), warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = one_line(error).split("\\n")[0]
        raise ValueError(
            f"{one_line(path)} holds more than arrays, and nothing else is read: save the "
            f"model's state_dict() ({reason})"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{one_line(path)} holds no state_dict but a {type(found).__name__}."
        )
    return {name: _numpy(path, name, x) for name, x in found.items()}


def _numpy(path: Path, name: object, x: "torch.Tensor") -> np.ndarray:
    import torch

    if not isinstance(x, torch.Tensor) or not isinstance(name, str):
        raise ValueError(
            f"{one_line(path)}: {one_line(name)} is no array but a {type(x).__name__}; "
            "expected a state_dict()."
        )
    if x.dtype == torch.bfloat16 or x.layout != torch.strided or x.is_quantized:
        raise ValueError(
            f"{one_line(path)}: {one_line(name)} is {x.dtype}, {x.layout}; expected "
            "torch.float32, dense."
        )
    return x.detach().numpy()


@contextlib.contextmanager
def errors_as_damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """OSError and `errors` inside as a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:  # says it already
        raise
    except (OSError, *errors) as error:
        reason = one_line(error).split("\\n")[0].rstrip(".")
        raise CheckpointError(f"{one_line(path)} is damaged: {reason}.") from error
