# SPDX-License-Identifier: Apache-2.0
"""StableHLO programs are bit-identical to `model.apply`, without this package."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import inception_jax
from inception_jax.cli.weights import export_weights
from inception_jax.config import AblationConfig, PreprocessSpec
from inception_jax.models.zoo import SPECS
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.weights import export, stablehlo
from inception_jax.weights.model import Model
from tests.models.tiny import three_grids
from tests.weights.filled import CARD, filled

RUN_ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("inception_jax", "flax"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import jax.export, numpy, safetensors.numpy

folder, images, *outputs = sys.argv[1:]
with open(f"{folder}/model.stablehlo", "rb") as file:
    call = jax.export.deserialize(bytearray(file.read())).call
weights = safetensors.numpy.load_file(f"{folder}/weights.safetensors")
images = numpy.load(images)
for count, file in zip((1, 7), outputs, strict=True):
    numpy.save(file, call(weights, images[:count]))
assert not {"inception_jax", "flax"} & sys.modules.keys()
"""


def called_alone(folder: Path, images: np.ndarray, tmp_path: Path) -> list[np.ndarray]:
    """Run the program on 1 and 7 images in a process that cannot import this package."""
    np.save(tmp_path / "images.npy", images, allow_pickle=False)
    outputs = [tmp_path / f"out{count}.npy" for count in (1, 7)]
    files = [folder, tmp_path / "images.npy", *outputs]
    subprocess.run([sys.executable, "-I", "-c", RUN_ALONE, *map(str, files)], check=True)
    return [np.load(file, allow_pickle=False) for file in outputs]


def test_stablehlo_is_the_same_function_without_this_package(folder, tmp_path):
    export_weights(str(folder), format="stablehlo", out=tmp_path / "out")
    model, variables = inception_jax.load(folder)
    images = np.random.default_rng(1).uniform(-0.5, 2, (7, 8, 8, 1)).astype(np.float32)
    results = called_alone(tmp_path / "out", images, tmp_path)
    apply = jax.jit(lambda v, x: model.apply(v, x)[0])
    for count, found in zip((1, 7), results, strict=True):
        expected = np.asarray(apply(variables, images[:count]))
        np.testing.assert_array_equal(found, expected, strict=True)
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["images"]["shape"] == ["b", "8", "8", "1"]
    assert about["images"]["range"] == [-0.5, 2.0]
    assert about["output"]["shape"] == ["b", "3"]
    assert about["class_titles"][2] == "tench, Tinca tinca"
    assert tuple(about["class_names"]) == CARD.class_names
    assert about["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize(
    "ablation",
    [
        AblationConfig(),
        pytest.param(
            AblationConfig(
                residual_norm=True, activation="leaky_relu", learned_scale="channel"
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_layers_accept_any_batch_size(ablation, monkeypatch):
    monkeypatch.setitem(SPECS, "grids", three_grids())
    spec = PreprocessSpec((32, 32, 1))
    model = Model(replace(CARD, network="grids", preprocess=spec, ablation=ablation))
    variables = filled(model.shapes)
    arrays = flatten_with_paths(variables)
    exported = stablehlo.export_program(model, arrays)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32, 1)).astype(np.float32)
    expected = jax.jit(lambda v, x: model.apply(v, x)[0])(variables, images)
    np.testing.assert_array_equal(exported.call(arrays, images), expected)


def test_features_without_a_classifier(folder, tmp_path):
    model, variables = inception_jax.load(folder)
    del variables["params"]["Logits"]
    model = Model(replace(model.card, class_names=()))
    export.export(model, variables, "stablehlo", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["output"] == {
        "shape": ["b", "8"],
        "dtype": "float32",
        "meaning": "features",
    }
