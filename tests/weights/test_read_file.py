# SPDX-License-Identifier: Apache-2.0
"""Weights files are recognised by content, rejected if damaged, and never executed."""

import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from inception_jax.storage.files import CheckpointError
from inception_jax.weights import read_file
from tests.weights.sources import assert_read, flip

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.count": np.array(7),
}


class Runs:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def test_safetensors(tmp_path):
    path = tmp_path / "x.pth"  # the file's name does not matter
    safetensors.numpy.save_file(ARRAYS, path)
    assert_read(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged: ")):
        read_file.read_arrays(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"is damaged: .*[Hh]eader"):
        read_file.read_arrays(path)


def test_npz(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)
    assert_read(path, ARRAYS)
    flip(path, ARRAYS["a.weight"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: checksum mismatch of a\.w"):
        read_file.read_arrays(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"x is damaged: .*zip"):
        read_file.read_arrays(path)


def test_a_pickled_npz_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    np.savez(tmp_path / "x.npz", a=np.array([Runs(mark)], object))
    with pytest.raises(
        ValueError, match=r"x\.npz: a is not an array of numbers: Object arrays"
    ):
        read_file.read_arrays(tmp_path / "x.npz")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_torch(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="needs torch")
    path = tmp_path / "x"
    tensors = {name: torch.tensor(x) for name, x in ARRAYS.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert_read(path, ARRAYS)
    half = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    torch.save(half, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x: a is torch\.bfloat16"):
        read_file.read_arrays(path)
    torch.save({"model": tensors}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="x: model is a dict, not an array; expected a"):
        read_file.read_arrays(path)
    torch.save([1], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds a list; expected a state_dict"):
        read_file.read_arrays(path)


def test_a_damaged_torch_file_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    path = tmp_path / "x"
    torch.save({"a": torch.tensor(ARRAYS["a.weight"])}, path)
    flip(path, ARRAYS["a.weight"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: checksum .* x/data/0"):
        read_file.read_arrays(path)
    torch.save({"a": torch.zeros(99)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(CheckpointError, match=r"x is damaged: "):
        read_file.read_arrays(path)


def test_a_malicious_pickle_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    bad = {"a": Runs(mark)}
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bad))
    (tmp_path / "text.pth").write_bytes(pickle.dumps(bad, protocol=0))
    with pytest.raises(ValueError, match=r"text.pth is not a supported weight file"):
        read_file.read_arrays(tmp_path / "text.pth")
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save(bad, tmp_path / "zip.pth")
    torch.save(bad, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("plain", "zip", "old"):
        with pytest.raises(ValueError, match=f"{name}.pth contains more than arrays"):
            read_file.read_arrays(tmp_path / f"{name}.pth")
    assert not mark.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)  # without the protection it runs
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "start", "extra"),
    [
        ("torch", b"\x80\x02", "torch"),
        ("h5py", read_file.HDF5, "weights"),
        ("tensorflow", b"", "tensorflow"),
    ],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, start, extra):
    monkeypatch.setitem(sys.modules, module, None)
    end = bytes.fromhex("57fb808b247547db") if module == "tensorflow" else b""
    (tmp_path / "x").write_bytes(start + b"." * 50 + end)
    with pytest.raises(ImportError, match=rf'pip install "inception_jax\[{extra}\]"'):
        read_file.read_arrays(tmp_path / "x")


def test_an_old_torch_is_rejected(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save({}, tmp_path / "x")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"torch 2\.9\.1\+cpu .* 2\.10"):
        read_file.read_arrays(tmp_path / "x")
