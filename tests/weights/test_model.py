# SPDX-License-Identifier: Apache-2.0
"""Model folders and `load`: models with their weights."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.config import AblationConfig, PreprocessSpec
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import CheckpointError
from inception_jax.training.fit import fit
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import random_variables

CARD = Card(
    network="tiny",
    preprocess=PreprocessSpec((8, 8, 1), crop_fraction=0.75, low=-0.5, high=2.0),
    class_names=("ten", "eleven", "twelve"),
    origin=Origin("timm", "a.safetensors", "00", background_removed=True),
    bn_scale=False,
    residual_scale=0.25,
    ablation=AblationConfig(learned_scale="scalar", learned_scale_init=0.5),
)


def made_up() -> dict:
    variables = random_variables(Model(CARD).network, jnp.zeros((1, 8, 8, 1)))
    variables["params"]["block8_1"]["learned_scale"] = jnp.float32(0.5)
    return variables


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    """Save a model folder of a tiny network with no field at its default."""
    variables = made_up()
    save(tmp_path / "model", CARD, variables)
    return tmp_path / "model"


def test_load_returns_what_save_wrote(folder):
    model, variables = inception_jax.load(folder)
    assert model.card == CARD
    expected = made_up()
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert "params/block8_1/learned_scale" in flatten_with_paths(variables)
    assert "params/Stem/Conv2d_1a_3x3/bn/scale" not in flatten_with_paths(variables)


def test_a_model_is_a_pure_function_in_jit_grad_and_vmap(folder):
    model, variables = inception_jax.load(folder)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)), jnp.float32)
    logits, endpoints = jax.jit(model.apply)(variables, images)
    assert logits.shape == (2, 3)
    assert endpoints["block8_1"].shape == (2, 4, 4, 8)
    # The default is the card's scale, not the network's.
    scaled, _ = model.network.apply(variables, images, 0.25)
    np.testing.assert_allclose(logits, scaled, rtol=1e-5, atol=1e-6)
    other, _ = model.apply(variables, images, 1.0)
    assert np.abs(other - logits).max() > 1e-3
    each = jax.vmap(lambda x: model.apply(variables, x[None])[0][0])(images)
    np.testing.assert_allclose(each, logits, rtol=1e-5, atol=1e-6)
    saliency = jax.grad(lambda x: model.apply(variables, x)[0][0, 0])(images)
    assert np.abs(saliency[0]).max() > 0
    assert np.abs(saliency[1]).max() == 0


def test_images_are_prepared_as_the_card_says(folder):
    model, _ = inception_jax.load(folder)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    ready = model.prepare([pixels, pixels[..., None]])
    assert ready.shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(ready[0], ready[1])
    white = model.prepare([np.full((30, 20), 255, np.uint8)])
    np.testing.assert_allclose(white, 2.0, rtol=1e-6)
    # The central three quarters only.
    framed = np.zeros((80, 80), np.uint8)
    framed[:9] = 255
    np.testing.assert_allclose(model.prepare([framed]), -0.5, rtol=1e-6)
    with pytest.raises(TypeError, match=r"uint8 pixels .*, got float32 of shape \(8, 8\)"):
        model.prepare([pixels.astype(np.float32)])


def test_runs_are_loaded_by_step_and_kind_of_weights(tiny, tmp_path, monkeypatch):
    config = replace(tiny, workdir=tmp_path / "models" / "run", checkpoint_every=0.1)
    fit(config)
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))
    model, averaged = inception_jax.load("run")
    assert model.card.class_names == tuple("0123456789")
    assert model.card.preprocess.image_shape == (8, 8, 1)
    assert (model.card.origin.step, model.card.origin.weights) == (6, "ema")
    _, raw = inception_jax.load(config.workdir, weights="raw")
    earlier, _ = inception_jax.load(config.workdir, step=5)
    assert earlier.card.origin.step == 5
    kernels = [v["params"]["Logits"]["kernel"] for v in (averaged, raw)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    with pytest.raises(ValueError, match="no checkpoint of step 1; there are: 5, 6"):
        inception_jax.load(config.workdir, step=1)


def test_unknown_models_are_rejected(folder, monkeypatch):
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(folder.parent))
    model, _ = inception_jax.load("model")
    assert model.card == CARD
    with pytest.raises(ValueError, match=r"no model inception_v4: .* names in .*: model\."):
        inception_jax.load("inception_v4")
    with pytest.raises(ValueError, match="one set of weights"):
        inception_jax.load(folder, step=3)


def test_variables_of_another_network_are_rejected(folder):
    _, variables = inception_jax.load(folder)
    del variables["params"]["Logits"]["bias"]
    variables["params"]["Logits"]["gain"] = np.zeros(3)
    kernel = variables["params"]["Stem"]["Conv2d_1a_3x3"]["conv"]
    kernel["kernel"] = np.zeros((1, 3, 3, 32))
    expected = (
        r"tiny cannot use .*: params/Logits/bias is missing, params/Logits/gain is "
        r"unexpected, .*kernel is \[1, 3, 3, 32\] instead of \[3, 3, 1, 32\]\."
    )
    with pytest.raises(ValueError, match=expected):
        save(folder.parent / "other", CARD, variables)
    assert not (folder.parent / "other").exists()
    with pytest.raises(ValueError, match="already exists"):
        save(folder, CARD, inception_jax.load(folder)[1])


@pytest.mark.parametrize("byte", range(40, 900, 43))
def test_a_flipped_bit_is_detected(folder, byte):
    file = folder / ("model.json" if byte % 2 else "weights.safetensors")
    data = bytearray(file.read_bytes())
    data[byte if byte % 2 else -byte] ^= 4  # in the card, and in the arrays
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        inception_jax.load(folder)


def test_damage_is_named(folder):
    file = folder / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged"):
        inception_jax.load(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged"):
        inception_jax.load(folder)
    # The first array of the file's data.
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    first = next(name for name in header if header[name]["data_offsets"][0] == 0)
    start = 8 + int.from_bytes(whole[:8], "little")
    file.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    with pytest.raises(CheckpointError, match=f"checksum mismatch of {first}"):
        inception_jax.load(folder)
