# SPDX-License-Identifier: Apache-2.0
"""Files written by older versions of the package load and continue unchanged.

`fixtures/flat_layout` was written by commit 3548429, the last one whose package was flat.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import jax.export
import numpy as np
import pytest
import safetensors.numpy

import inception_jax
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import read_json_lines
from inception_jax.training.fit import fit

OLD = Path(__file__).parent / "fixtures" / "flat_layout"


@pytest.fixture
def expected():
    with np.load(OLD / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_model_folder_gives_the_same_logits(tiny, expected):
    model, variables = inception_jax.load(str(OLD / "model"))
    logits, _ = model.apply(variables, expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-6)


def test_a_program_gives_the_same_logits(expected):
    program = jax.export.deserialize(
        bytearray((OLD / "program/model.stablehlo").read_bytes())
    )
    weights = safetensors.numpy.load_file(OLD / "program/weights.safetensors")
    logits = program.call(weights, expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_holds_the_same_weights(tiny, expected, tmp_path):
    run = shutil.copytree(OLD / "run", tmp_path / "run")
    _, variables = inception_jax.load(str(run))
    weights = {
        f"weights/{name}": value for name, value in flatten_with_paths(variables).items()
    }
    assert weights.keys() == {name for name in expected if name.startswith("weights/")}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_run_resumes_from_its_checkpoint(tiny, expected, tmp_path):
    run = shutil.copytree(OLD / "run", tmp_path / "run")
    assert fit(replace(tiny, workdir=run, steps=6, log_every=1))
    records = read_json_lines(run / "metrics.jsonl")
    losses = [record["loss_sum"] for record in records if record["kind"] == "train"]
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
