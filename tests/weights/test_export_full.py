# SPDX-License-Identifier: Apache-2.0
"""Exports of full-size networks give the golden logits in the libraries that load them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from inception_jax.cli.weights import export_weights, loading_code
from inception_jax.config import PreprocessSpec
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin
from inception_jax.weights.stablehlo import PROGRAM_FILE
from tests.goldens.fill import golden_variables, images
from tests.models.test_goldens import SOURCES, golden
from tests.weights.test_stablehlo import called_alone

pytestmark = pytest.mark.slow


def model_of(source: str) -> Model:
    """Return the model of a golden file, with its number of classes."""
    network, options, size, _ = SOURCES[source]
    names = () if "facenet" in source else tuple(f"n{i:08}" for i in range(1000))
    spec = PreprocessSpec((size, size, 3))
    return Model(Card(network, spec, names, Origin("golden", source), **options))


def exported(source: str, format: str, tmp_path: Path, name: str) -> Path:
    """Export that model with the command; return the path."""
    model = model_of(source)
    save(tmp_path / "model", model.card, golden_variables(source, model.shapes))
    export_weights(str(tmp_path / "model"), format=format, out=tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("network", ["inception_v4", "inception_resnet_v2"])
def test_timm_gives_the_golden_logits(network, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch and timm")
    pytest.importorskip("timm", reason="needs torch and timm")
    source = f"timm_{network}"
    file = exported(source, "timm", tmp_path, "x.safetensors")
    model = loaded("timm", file, source)
    with torch.no_grad():
        x = torch.from_numpy(images(299).transpose(0, 3, 1, 2).copy())
        logits = model(x).numpy()
    expected, tolerance = golden(source)["logits_299"], SOURCES[source][3]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_facenet_pytorch_gives_the_golden_embeddings(tmp_path):
    reason = "needs torch, and facenet-pytorch without its dependencies"
    torch = pytest.importorskip("torch", reason=reason)
    pytest.importorskip("facenet_pytorch", reason=reason)
    source = "facenet_pytorch_inception_resnet_v1"
    file = exported(source, "facenet_pytorch", tmp_path, "x.safetensors")
    model = loaded("facenet_pytorch", file, source)
    with torch.no_grad():
        x = torch.from_numpy(images(160).transpose(0, 3, 1, 2).copy())
        found = model(x).numpy()
    expected, tolerance = golden(source)["logits_160"], SOURCES[source][3]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def loaded(format: str, file: Path, source: str) -> Any:
    """Return the model that the printed lines create."""
    names: dict[str, Any] = {}
    exec("\n".join(loading_code(format, file, model_of(source).card)), names)
    return names["model"]


@pytest.mark.parametrize(
    "source", ["keras_inception_resnet_v2", "timm_inception_resnet_v2"]
)
def test_keras_gives_the_golden_logits(source, tmp_path):
    # timm's arrays have a gamma, Keras's layers do not.
    pytest.importorskip("keras", reason="needs keras and h5py")
    file = exported(source, "keras", tmp_path, "x.h5")
    np.save(tmp_path / "images.npy", images(299), allow_pickle=False)
    lines = [
        "import sys, numpy",
        *loading_code("keras", file, model_of(source).card),
        "numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[1]), verbose=0))",
    ]
    places = map(str, (tmp_path / "images.npy", tmp_path / "out.npy"))
    # Keras chooses its backend when it is imported.
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *places],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        check=True,
    )
    expected, tolerance = golden(source)["logits_299"], SOURCES[source][3]
    found = np.load(tmp_path / "out.npy", allow_pickle=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("source", ["timm_inception_v4", "timm_inception_resnet_v2"])
def test_stablehlo_is_the_same_function_at_full_size(source, tmp_path, capsys):
    start = time.perf_counter()
    folder = exported(source, "stablehlo", tmp_path, "out")
    with capsys.disabled():
        size, seconds = (folder / PROGRAM_FILE).stat().st_size, time.perf_counter() - start
        print(f"\n{source}: {size:,} bytes in {seconds:.1f} s")
    many = np.tile(images(299), (4, 1, 1, 1))[:7] * np.linspace(1, 0.5, 7).reshape(
        7, 1, 1, 1
    )
    many = many.astype(np.float32)
    results = called_alone(folder, many, tmp_path)
    model = model_of(source)
    variables = golden_variables(source, model.shapes)
    apply = jax.jit(lambda v, x: model.apply(v, x)[0])
    for count, found in zip((1, 7), results, strict=True):
        expected = np.asarray(apply(variables, many[:count]))
        np.testing.assert_array_equal(found, expected, strict=True)
    first = golden(source)["logits_299"][0]
    np.testing.assert_allclose(results[0][0], first, rtol=0, atol=SOURCES[source][3])
