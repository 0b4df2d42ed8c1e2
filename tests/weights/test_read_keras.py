# SPDX-License-Identifier: Apache-2.0
"""Arrays in Keras files, written with h5py, are assigned to the right layers."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from inception_jax.storage.files import CheckpointError
from inception_jax.weights import read_file
from tests.weights import sources
from tests.weights.sources import assert_read, flip


@pytest.fixture
def h5py(monkeypatch, tmp_path):
    """Return h5py, with Keras's layout of the tiny network installed."""
    names = tmp_path / "names"
    names.mkdir()
    sources.install(monkeypatch, names)
    return pytest.importorskip("h5py", reason="needs h5py")


def tiny() -> dict[str, np.ndarray]:
    """Return arrays under Keras's names, of one shape and with distinct values."""
    leaves = {"batch": ("beta", "moving_mean", "moving_variance"), "conv2": ("kernel",)}
    names = [
        f"{layer}/{leaf}"
        for layer in sources.KERAS_ORDER
        for leaf in leaves.get(layer[:5], ("kernel", "bias"))
    ]
    return {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}


def write_old(h5py, path: Path, names: dict[str, str], *, pieces: int = 1) -> None:
    """Write an .h5 as legacy_h5_format.py does, with layers renamed by `names`."""
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


def test_an_h5_may_number_its_layers_from_any_start(h5py, tmp_path):
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
    # Layers without a number must be in their place.
    write_old(h5py, path, {"block8_1_conv": "predictions", "predictions": "block8_1_conv"})
    found = read_file.read_arrays(path)
    assert "predictions (layer 7)/bias" in found
    assert "predictions/bias" not in found


def write_keras_3(h5py, file: Path | io.BytesIO, changes: dict | None = None) -> None:
    """Write a .weights.h5 as saving_lib.py does, with layers numbered within a class."""
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


def test_keras_3_numbers_layers_by_class(h5py, tmp_path):
    path = tmp_path / "x.h5"
    write_keras_3(h5py, path)
    assert_read(path, tiny())
    with h5py.File(path, "a") as file:  # Keras 3.0 wrote no names
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    assert_read(path, tiny())
    with h5py.File(path, "a") as file:
        file["layers/conv2d_3/vars"].attrs["name"] = "conv_7b"
    assert "conv_7b (layers/conv2d_3)/kernel" in read_file.read_arrays(path)
    extra = {"layers/dense_1/vars/0": np.zeros(2), "layers/conv2d_1/vars/2": np.zeros(2)}
    write_keras_3(h5py, path, extra | {"vars/0": np.zeros(2)})
    found = read_file.read_arrays(path)
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
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", stream.getvalue()[:-99])
    with pytest.raises(
        CheckpointError, match=r"^\S+/x is damaged: (?!.*damaged).*truncated"
    ):
        read_file.read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", stream.getvalue())
    flip(path, tiny()["conv2d_1/kernel"].tobytes())
    with pytest.raises(CheckpointError, match=r"x is damaged: .*model\.weights\.h5"):
        read_file.read_arrays(path)


def test_a_damaged_h5_is_rejected(h5py, tmp_path):
    path = tmp_path / "x"
    write_old(h5py, path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"x is damaged: .*truncated"):
        read_file.read_arrays(path)


def test_external_data_is_not_read(h5py, tmp_path):
    secret, path = tmp_path / "secret", tmp_path / "x"
    secret.write_bytes(bytes(24))
    write_keras_3(h5py, path)
    with h5py.File(path, "a") as file:
        group = file["layers/conv2d/vars"]
        del group["0"]
        group.create_dataset("0", (6,), np.float32, external=[(secret, 0, 24)])
    with pytest.raises(CheckpointError, match="layers/conv2d/vars/0 is stored in another"):
        read_file.read_arrays(path)
