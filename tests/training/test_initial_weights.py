# SPDX-License-Identifier: Apache-2.0
"""Runs that start from saved weights: what is loaded, and what is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import AblationConfig, PreprocessSpec, RunConfig
from inception_jax.inference.evaluate import load_state
from inception_jax.models.network import create
from inception_jax.storage.files import CheckpointError
from inception_jax.training.fit import fit
from inception_jax.training.from_config import preprocess_for
from inception_jax.training.initial_weights import (
    check_first_weights,
    load_first_weights,
    preprocessing_settings,
    source_card,
)
from inception_jax.training.optimizer import CLASSIFIERS
from inception_jax.training.state import TrainState, jitted_init
from inception_jax.weights.model import Model, load, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import one_block, random_variables

DIGITS = tuple("0123456789")
CARD = Card(
    network="tiny",
    preprocess=PreprocessSpec((8, 8, 1)),
    class_names=DIGITS,
    origin=Origin("timm", "a.safetensors"),
    bn_scale=False,
)
assert_equal = partial(jax.tree.map, np.testing.assert_array_equal)


def saved(folder: Path, card: Card = CARD) -> Path:
    """Save a model folder of random weights with unusual moving averages."""
    variables = random_variables(Model(card).network, jnp.zeros((1, 8, 8, 1)))
    stats = jax.tree.map(lambda x: x + 0.25, variables["batch_stats"])
    save(folder, card, variables | {"batch_stats": stats})
    return folder


@pytest.fixture
def source(tiny: RunConfig, tmp_path: Path) -> Path:
    return saved(tmp_path / "source")


def fresh(config: RunConfig, aux_head: bool = False) -> TrainState:
    spec = one_block()
    if aux_head:
        stages = (replace(spec.stages[0], role="B"),)
        spec = one_block(stages=stages, image_shape=(34, 34, 1))
    network = create(spec, num_classes=10, bn_scale=False, aux_head=aux_head)
    return jitted_init(network, config.optimizer)(5)


@pytest.mark.parametrize("head", ["new", "kept"])
def test_weights_and_averages_are_loaded(tiny, source, head):
    config = replace(tiny, first_weights=str(source), head=head)
    state = fresh(config)
    _, variables = load(source)
    begun = load_first_weights(state, config)
    kept = jax.tree.map(lambda x: x, variables)
    if head == "new":
        kept["params"]["Logits"] = state.params["Logits"]
    assert_equal(begun.raw_variables, kept)
    assert_equal(begun.ema_variables, kept)
    assert_equal((begun.step, begun.opt_state), (state.step, state.opt_state))
    pairs = zip(*map(jax.tree.leaves, (begun.params, begun.ema_params)), strict=True)
    assert not any(np.shares_memory(a, b) for a, b in pairs)  # both are donated


def test_an_aux_head_is_always_new(tiny, source):
    config = replace(tiny, first_weights=str(source), head="kept")
    state = fresh(config, aux_head=True)
    begun = load_first_weights(state, config)
    for before, after in zip(state[1:5], begun[1:5], strict=True):
        assert_equal(after["AuxLogits"], before["AuxLogits"])
    assert_equal(begun.params["Logits"], load(source)[1]["params"]["Logits"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "inception_v4"}, "network tiny instead of inception_v4"),
        ({"bn_scale": True}, "bn_scale False instead of True"),
        (
            {"ablation": AblationConfig(activation="pre")},
            "ablation.activation relu instead of pre",
        ),
        ({"first_weights": "nowhere"}, "there is no model nowhere"),
    ],
)
def test_other_networks_are_refused(tiny, source, changes, message):
    config = replace(tiny, **{"first_weights": str(source)} | changes)
    with pytest.raises(ValueError, match=message):
        check_first_weights(config, DIGITS)


def test_a_kept_head_is_for_its_own_classes(tiny, source):
    config = replace(tiny, first_weights=str(source), head="kept")
    check_first_weights(config, DIGITS)
    for others in (DIGITS[::-1], DIGITS[:9], (*DIGITS[:9], "n\nine")):
        with pytest.raises(
            ValueError, match=r"head kept needs the classes of .* has \d+ \("
        ):
            check_first_weights(config, others)
        check_first_weights(replace(config, head="new"), others)


def test_a_damaged_card(source):
    (source / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        source_card(str(source))


def test_preprocessing_becomes_settings(tiny):
    spec = PreprocessSpec((8, 8, 1), 0.5, "keep", "bicubic", low=-0.5, high=3.0)
    assert preprocess_for(replace(tiny, **preprocessing_settings(spec))) == spec
    with pytest.raises(ValueError, match="images of 8x9; a run needs square images"):
        preprocessing_settings(PreprocessSpec((8, 9, 1)))


def test_a_run_needs_them_until_there_is_a_checkpoint(tiny, source, tmp_path):
    """A run that has a checkpoint no longer needs them, and can itself be a source."""
    config = replace(
        tiny, first_weights=str(source), bn_frozen=True, workdir=tmp_path / "run"
    )
    config = replace(config, optimizer=replace(config.optimizer, body_rate=0.0))
    with pytest.raises(ValueError, match="head kept needs the classes"):
        fit(replace(config, data="synthetic:3x200", head="kept"))
    assert not config.workdir.exists()
    fit(replace(config, steps=2, workdir=tmp_path / "whole"))
    fit(replace(config, steps=1))
    _, variables = load(source)
    shutil.rmtree(source)
    fit(replace(config, steps=2))
    states = [load_state(tmp_path / name, jax.devices()).state for name in ("run", "whole")]
    assert_equal(*jax.device_get(states))
    for group in (states[0].raw_variables, states[0].ema_variables):
        body = {n: x for n, x in group["params"].items() if n not in CLASSIFIERS}
        assert_equal(body, {n: variables["params"][n] for n in body})
        assert_equal(group["batch_stats"], variables["batch_stats"])
    assert source_card(str(config.workdir)).class_names == DIGITS
    with pytest.raises(ValueError, match="no model"):
        fit(replace(config, workdir=tmp_path / "other"))
    record = json.loads((config.workdir / "run.json").read_text())
    assert record["config"]["first_weights"] == str(source)
    check_first_weights(replace(config, first_weights=str(config.workdir)), DIGITS)
