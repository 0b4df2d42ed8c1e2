# SPDX-License-Identifier: Apache-2.0
"""Files of weights: read by what is in them, refused where damaged, and never run."""

import io
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from inception_jax.digests import CheckpointError
from inception_jax.weights import files
from tests.weights import sources

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.count": np.array(7),
}


def assert_read(path: Path, expected: dict[str, np.ndarray] = ARRAYS) -> None:
    found = files.read(path)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, strict=True, err_msg=name)


def flip(path: Path, part: bytes) -> None:
    """One bit of the first of the bytes that are `part`, the only such in the file."""
    whole = path.read_bytes()
    assert whole.count(part) == 1
    at = whole.index(part)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


class Runs:
    """Makes a folder where a pickle of it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def test_safetensors(tmp_path):
    path = tmp_path / "x.pth"  # what a file is called does not count
    safetensors.numpy.save_file(ARRAYS, path)
    assert_read(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged: ")):
        files.read(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"is damaged: .*[Hh]eader"):
        files.read(path)


def test_npz(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)
    assert_read(path)
    flip(path, ARRAYS["a.weight"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: a\.weight\.npy .*checksum"):
        files.read(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"x is damaged: .*zip"):
        files.read(path)


def test_a_pickled_npz_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    np.savez(tmp_path / "x.npz", a=np.array([Runs(mark)], object))
    with pytest.raises(
        ValueError, match=r"x\.npz: a is no array of numbers: Object arrays"
    ):
        files.read(tmp_path / "x.npz")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_torch(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="needs torch")
    path = tmp_path / "x"
    tensors = {name: torch.tensor(x) for name, x in ARRAYS.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert_read(path)
    half = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    torch.save(half, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x: a is torch\.bfloat16"):
        files.read(path)
    torch.save({"model": tensors}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match="x: model is no array but a dict; expected a state"
    ):
        files.read(path)
    torch.save([1], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds no state_dict but a list"):
        files.read(path)


def test_a_damaged_torch_file_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    path = tmp_path / "x"
    torch.save({"a": torch.tensor(ARRAYS["a.weight"])}, path)
    flip(path, ARRAYS["a.weight"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: x/data/0 .*checksum"):
        files.read(path)
    torch.save({"a": torch.zeros(99)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(CheckpointError, match=r"x is damaged: "):
        files.read(path)


def test_a_malicious_pickle_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    bad = {"a": Runs(mark)}
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bad))
    (tmp_path / "text.pth").write_bytes(pickle.dumps(bad, protocol=0))
    with pytest.raises(ValueError, match=r"text.pth is no file of weights"):
        files.read(tmp_path / "text.pth")
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save(bad, tmp_path / "zip.pth")
    torch.save(bad, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("plain", "zip", "old"):
        with pytest.raises(ValueError, match=f"{name}.pth holds more than arrays"):
            files.read(tmp_path / f"{name}.pth")
    assert not mark.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)  # it would have been
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "start", "extra"),
    [
        ("torch", b"\x80\x02", "torch"),
        ("h5py", files.HDF5, "weights"),
        ("tensorflow", b"", "tensorflow"),
    ],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, start, extra):
    monkeypatch.setitem(sys.modules, module, None)
    end = bytes.fromhex("57fb808b247547db") if module == "tensorflow" else b""
    (tmp_path / "x").write_bytes(start + b"." * 50 + end)
    with pytest.raises(ImportError, match=rf'pip install "inception_jax\[{extra}\]"'):
        files.read(tmp_path / "x")


def test_an_old_torch_is_not_trusted(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save({}, tmp_path / "x")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"torch 2\.5\.1\+cpu .* 2\.6"):
        files.read(tmp_path / "x")


@pytest.fixture
def h5py(monkeypatch, tmp_path):
    """h5py, and Keras's layout of the tiny network."""
    names = tmp_path / "names"
    names.mkdir()
    sources.install(monkeypatch, names)
    return pytest.importorskip("h5py", reason="needs h5py")


def tiny() -> dict[str, np.ndarray]:
    """Arrays under Keras's names, all of one shape and all different."""
    leaves = {"batch": ("beta", "moving_mean", "moving_variance"), "conv2": ("kernel",)}
    names = [
        f"{layer}/{leaf}"
        for layer in sources.KERAS_ORDER
        for leaf in leaves.get(layer[:5], ("kernel", "bias"))
    ]
    return {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}


def write_old(h5py, path: Path, names: dict[str, str], *, pieces: int = 1) -> None:
    """As legacy_h5_format.py: groups by layer, `names` in place of the layers' own."""
    arrays = tiny()
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        layers = [names.get(layer, layer) for layer in sources.KERAS_ORDER]
        texts = [x.encode() for x in ("input_1", *layers)]
        for i, some in enumerate(np.array_split(texts, pieces)):
            group.attrs[f"layer_names{i if pieces > 1 else ''}"] = some
        group.create_group("input_1").attrs["weight_names"] = np.zeros(0)
        for known, layer in zip(sources.KERAS_ORDER, layers, strict=True):
            weights = {
                n.split("/")[1]: x for n, x in arrays.items() if n.startswith(f"{known}/")
            }
            paths = [f"{layer}/{leaf}:0" for leaf in weights]
            group.create_group(layer).attrs["weight_names"] = [x.encode() for x in paths]
            for name, x in zip(paths, weights.values(), strict=True):
                group[layer][name] = x


def test_an_old_h5_may_number_its_layers_from_anywhere(h5py, tmp_path):
    path = tmp_path / "x"
    write_old(h5py, path, {})
    assert_read(path, tiny())
    numbered = {
        "conv2d": "conv2d_204",
        "conv2d_1": "conv2d_205",
        "conv2d_2": "conv2d_206",
        "batch_normalization": "batch_normalization_7",
    }
    write_old(h5py, path, numbered, pieces=3)
    assert_read(path, tiny())
    # Layers with names of their own have to be where they are known to be.
    write_old(h5py, path, {"block8_1_conv": "predictions", "predictions": "block8_1_conv"})
    found = files.read(path)
    assert "predictions (layer 7)/bias" in found
    assert "predictions/bias" not in found


def write_keras_3(h5py, file: Path | io.BytesIO, changes: dict | None = None) -> None:
    """As saving_lib.py: layers by class, counted in the order of `model.layers`."""
    counts: dict[str, int] = {}
    kinds = {"batch": "batch_normalization", "predi": "dense"}
    arrays = tiny()
    with h5py.File(file, "w") as opened:
        for layer in sources.KERAS_ORDER:
            kind = kinds.get(layer[:5], "conv2d")
            number = counts[kind] = counts.get(kind, -1) + 1
            path = f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars"
            group = opened.create_group(path)
            group.attrs["name"] = layer
            weights = [x for name, x in arrays.items() if name.startswith(f"{layer}/")]
            for i, x in enumerate(weights):
                group[str(i)] = x
        opened["optimizer/vars/0"] = np.zeros(())
        for path, x in (changes or {}).items():
            opened[path] = x


def test_keras_3_counts_layers_by_class(h5py, tmp_path):
    path = tmp_path / "x.h5"
    write_keras_3(h5py, path)
    assert_read(path, tiny())
    with h5py.File(path, "a") as file:  # Keras 3.0 wrote no names
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    assert_read(path, tiny())
    with h5py.File(path, "a") as file:
        file["layers/conv2d_3/vars"].attrs["name"] = "conv_7b"
    assert "conv_7b (layers/conv2d_3)/kernel" in files.read(path)
    extra = {"layers/dense_1/vars/0": np.zeros(2), "layers/conv2d_1/vars/2": np.zeros(2)}
    write_keras_3(h5py, path, extra | {"vars/0": np.zeros(2)})
    found = files.read(path)
    assert {"vars/0", "dense (layers/dense_1)/vars/0"} <= found.keys()
    assert {"conv2d_2/vars/0", "conv2d_2/vars/2"} <= found.keys()
    assert "conv2d_2/kernel" not in found


def test_a_keras_archive(h5py, tmp_path):
    stream, path = io.BytesIO(), tmp_path / "x"
    write_keras_3(h5py, stream)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", stream.getvalue())
    assert_read(path, tiny())
    flip(path, tiny()["conv2d_1/kernel"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: .*model\.weights\.h5"):
        files.read(path)


def test_a_damaged_h5_is_refused(h5py, tmp_path):
    path = tmp_path / "x"
    write_old(h5py, path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"x is damaged: .*truncated"):
        files.read(path)


def test_numbers_of_another_file_are_not_read(h5py, tmp_path):
    secret, path = tmp_path / "secret", tmp_path / "x"
    secret.write_bytes(bytes(24))
    write_keras_3(h5py, path)
    with h5py.File(path, "a") as file:
        group = file["layers/conv2d/vars"]
        del group["0"]
        group.create_dataset("0", (6,), np.float32, external=[(secret, 0, 24)])
    with pytest.raises(CheckpointError, match="layers/conv2d/vars/0 is kept in another"):
        files.read(path)
