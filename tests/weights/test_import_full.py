# SPDX-License-Identifier: Apache-2.0
"""Files written by timm, facenet-pytorch, Keras and TensorFlow give the golden logits."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import inception_jax
from inception_jax.cli.weights import import_weights
from inception_jax.config import PreprocessSpec
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import CheckpointError
from inception_jax.weights import convert, read_file
from inception_jax.weights.layouts import FACENET, array_names, find_layout
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Origin
from tests.goldens.fill import golden_variables, images
from tests.models.test_goldens import SOURCES, golden
from tests.weights.sources import with_background

pytestmark = pytest.mark.slow


def assert_golden(folder: Path, source: str, times: float = 1) -> Card:
    """Assert that a model folder gives the golden outputs, within `times` the tolerance."""
    model, variables = inception_jax.load(folder)
    name, _, size, tolerance = SOURCES[source]
    assert model.card.network == name
    outputs, endpoints = jax.jit(model.apply)(variables, images(size))
    if name == FACENET:
        outputs = endpoints["Embeddings"]
    expected = golden(source)[f"logits_{size}"]
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=times * tolerance)
    return model.card


def expected_arrays(source: str) -> dict[str, np.ndarray]:
    """Return the arrays of a golden file by name."""
    name, options, size, _ = SOURCES[source]
    classes = () if name == FACENET else tuple(map(str, range(1000)))
    card = Card(name, PreprocessSpec((size, size, 3)), classes, Origin("", ""), **options)
    return flatten_with_paths(golden_variables(source, Model(card).shapes))


def run(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.weights.write_foreign", *map(str, arguments)],
        check=True,
    )


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        ("timm_inception_v4", ".safetensors"),
        ("timm_inception_resnet_v2", ".pth"),
        ("facenet_pytorch_inception_resnet_v1", ".pt"),
    ],
)
def test_pytorch_files(source, suffix, tmp_path):
    for module in ("torch", "facenet_pytorch" if "facenet" in source else "timm"):
        pytest.importorskip(module, reason=f"needs {module}")
    import safetensors.torch
    import torch

    from tests.goldens.regenerate import torch_model

    model, file = torch_model(source), tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_model(model, str(file))
    else:
        torch.save(model.state_dict(), file)
    import_weights(file, out=tmp_path / "out")
    card = assert_golden(tmp_path / "out", source)
    assert card.origin.source == ("facenet-pytorch" if "facenet" in source else "timm")


def test_a_facenet_pytorch_file_with_a_classifier(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    facenet_pytorch = pytest.importorskip("facenet_pytorch", reason="needs facenet_pytorch")
    model = facenet_pytorch.InceptionResnetV1(classify=True, num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    import_weights(tmp_path / "x.pt", out=tmp_path / "out")
    ours, variables = inception_jax.load(tmp_path / "out")
    logits, _ = jax.jit(ours.apply)(variables, images(160))
    with torch.no_grad():
        x = torch.from_numpy(images(160).transpose(0, 3, 1, 2).copy())
        expected = model(x).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * expected.std())


@pytest.mark.parametrize("source", ["keras_inception_v3", "keras_inception_resnet_v2"])
def test_keras_files(source, tmp_path):
    pytest.importorskip("keras", reason="needs keras and h5py")
    run(source, tmp_path)
    expected = expected_arrays(source)
    for name in ("model.h5", "weights_only.h5", "x.weights.h5", "x.keras"):
        import_weights(tmp_path / name, out=tmp_path / f"{name}.out")
        found = flatten_with_paths(inception_jax.load(tmp_path / f"{name}.out")[1])
        assert found.keys() == expected.keys()
        for leaf, x in found.items():
            np.testing.assert_array_equal(x, expected[leaf], err_msg=f"{name}: {leaf}")
    assert_golden(tmp_path / "x.keras.out", source)


@pytest.mark.parametrize(
    ("source", "slim", "times"),
    [
        # Folding gamma into the kernels rounds.
        ("timm_inception_v4", "slim", 2),
        ("keras_inception_resnet_v2", "slim", 1),
        ("facenet_pytorch_inception_resnet_v1", "facenet", 5),
    ],
)
def test_tensorflow_checkpoints(source, slim, times, tmp_path):
    """Names of slim and facenet, in V1 and V2, with background and auxiliary head."""
    pytest.importorskip("tensorflow", reason="needs tensorflow")
    layout = find_layout(slim, SOURCES[source][0])
    theirs = convert.to_library(layout, expected_arrays(source))
    if layout.background:
        theirs = with_background(layout, theirs) | aux_head(layout)
    np.savez(tmp_path / "arrays.npz", **theirs)
    run("tensorflow", tmp_path)
    assert (tmp_path / "v1.ckpt").is_file()
    assert not (tmp_path / "v2.ckpt").exists()
    found = {}
    for version in ("v1", "v2"):
        import_weights(tmp_path / f"{version}.ckpt", out=tmp_path / version)
        found[version] = flatten_with_paths(inception_jax.load(tmp_path / version)[1])
    jax.tree.map(np.testing.assert_array_equal, found["v1"], found["v2"])
    card = assert_golden(tmp_path / "v2", source, times)
    assert card.aux_head == card.origin.background_removed == layout.background
    assert not card.bn_scale


def aux_head(layout) -> dict[str, np.ndarray]:
    """Return arrays of an auxiliary head for 1001 classes, each filled with its number."""
    card = Card(
        layout.network,
        PreprocessSpec(),
        tuple(map(str, range(1001))),
        Origin("", ""),
        bn_scale=False,
        aux_head=True,
    )
    shapes = flatten_with_paths(Model(card).shapes)
    names = [(x, y) for x, y in array_names(layout).items() if "/AuxLogits/" in x]
    return {
        y: np.full(shapes[x].shape, i + 1, np.float32) for i, (x, y) in enumerate(names)
    }


def test_a_flipped_bit_in_a_checkpoint_is_detected(tmp_path):
    pytest.importorskip("tensorflow", reason="needs tensorflow")
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=99).astype(np.float32) for name in ("a/b", "c")}
    np.savez(tmp_path / "arrays.npz", **arrays)
    run("tensorflow", tmp_path)
    read = read_file.read_arrays(tmp_path / "v2.ckpt.index")
    assert read.keys() == {*arrays, "global_step"}
    np.testing.assert_array_equal(read["c"], arrays["c"])
    data = tmp_path / "v2.ckpt.data-00000-of-00001"
    for path, said in (
        (data, r"c in \S+ is damaged: .*[Cc]hecksum"),
        (tmp_path / "v1.ckpt", "v1.ckpt is damaged: "),
    ):
        whole = bytearray(path.read_bytes())
        whole[whole.index(arrays["c"].tobytes()) + 9] ^= 1
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match=said):
            read_file.read_arrays(path)
