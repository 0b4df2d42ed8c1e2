# SPDX-License-Identifier: Apache-2.0
"""Probes of a run come at the right steps and agree with its checkpoints."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import ParallelConfig, RunConfig
from inception_jax.data.batches import eval_batches
from inception_jax.data.open_source import open_source
from inception_jax.inference.evaluate import load_state
from inception_jax.models.network import create
from inception_jax.storage.files import read_json_lines
from inception_jax.storage.run_folder import read_record
from inception_jax.training.diagnostics import GROUPS, signals
from inception_jax.training.fit import fit
from inception_jax.training.state import TrainState
from tests.runs import compiled_by, records


@pytest.fixture
def probed(tiny, tmp_path) -> RunConfig:
    """A run of five steps that probes every second one and saves all."""
    return replace(
        tiny,
        workdir=tmp_path / "run",
        steps=5,
        checkpoint_every=0.01,
        keep_checkpoints=9,
        residual_scale=0.9,
        probe_every=2,
        probe_images=64,
    )


def state_of(config: RunConfig, step: int) -> TrainState:
    return jax.device_get(load_state(config.workdir, jax.devices(), step).state)


def norm(*trees: dict) -> float:
    """Return the norm of a tree, or of the difference of two."""
    leaves = jax.tree.leaves(jax.tree.map(lambda x, y=0.0: x - y, *trees))
    return float(np.linalg.norm(np.concatenate([np.ravel(x) for x in leaves])))


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig("shard_map", bn_sync=2),
        pytest.param(ParallelConfig(), marks=pytest.mark.slow),
    ],
)
def test_probes_are_what_the_checkpoints_give(probed, parallel):
    """They are computed on one device here, and on four in the run."""
    config = replace(probed, parallel=parallel)
    fit(config)
    source = open_source("digits", "eval", config.data_dir)
    preprocess = read_record(config.workdir).preprocess
    everything = next(eval_batches(source, preprocess=preprocess, batch_size=297))
    images = jnp.asarray(everything["image"][:64] / np.float32(127.5) - 1)
    network = create("tiny", num_classes=10, bn_scale=False)
    take = jax.jit(partial(signals, network))
    lines = records(config.workdir, "probe")
    assert [line["step"] for line in lines] == [2, 4]
    for line, trained in zip(lines, records(config.workdir, "train"), strict=False):
        before, after = (state_of(config, line["step"] - i) for i in (1, 0))
        expected = dict(jax.device_get(take(after.raw_variables, images, 0.9)))
        change = expected.pop("logits") - take(before.raw_variables, images, 0.9)["logits"]
        expected["function_change"] = np.sqrt(np.mean(change**2))
        expected["ema_gap"] = norm(after.ema_params, after.params) / norm(after.params)
        for name, value in expected.items():
            np.testing.assert_allclose(line.pop(name), value, rtol=1e-3, atol=1e-6)
        # Group metrics are those of the probed step; the groups are parts of the whole.
        assert trained["step"] == line["step"]
        parts = [line.pop(f"grad_norm/{g}") for g in GROUPS if g != "other"]
        assert np.linalg.norm(parts) == pytest.approx(trained["grad_norm"], rel=1e-4)
        old, new = before.params["Logits"], after.params["Logits"]
        ratio = norm(new, old) / norm(old)
        assert line["update_ratio/classifier"] == pytest.approx(ratio, rel=1e-3)
        ratios = [line.pop(f"update_ratio/{g}") for g in GROUPS if g != "other"]
        assert min(ratios) > 0
        assert line.keys() == {"kind", "step", "epoch"}
    (events,) = (config.workdir / "tensorboard").glob("events.*")
    for curve in (b"probe/curvature", b"probe/function_change", b"probe/grad_norm/stem"):
        assert curve in events.read_bytes()


def test_probing_changes_nothing_else(probed, tmp_path):
    fit(probed)
    without = replace(probed, workdir=tmp_path / "without", probe_every=None)
    fit(without)
    assert not records(without.workdir, "probe")
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        *(state_of(config, 5) for config in (probed, without)),
    )
    kept = {
        key for line in read_json_lines(without.workdir / "metrics.jsonl") for key in line
    }
    assert not any("/" in key for key in kept)


def test_probes_of_a_resumed_run(probed, tmp_path):
    """The last probe is repeated, because its step is the first of the resumed run."""
    parts = replace(probed, workdir=tmp_path / "parts")
    fit(replace(parts, steps=3))
    with (parts.workdir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "probe", "step": 4}\n')
    fit(parts)
    fit(probed)
    assert records(parts.workdir, "probe") == records(probed.workdir, "probe")


def test_one_compilation_of_the_probe(probed, tmp_path, compilations):
    run = partial(replace, probed)
    compiled_by(compilations, run(workdir=tmp_path / "warm", probe_every=1))
    once = compiled_by(compilations, run(workdir=tmp_path / "a", probe_every=5))
    assert once
    # Also before the first step, when the state is not on all devices yet.
    often = run(workdir=tmp_path / "b", probe_every=1)
    assert compiled_by(compilations, often) == once
    assert len(records(tmp_path / "b", "probe")) == 5


def test_a_probe_that_is_not_finite(probed):
    """A run that continues after a non-finite loss records null in every signal."""
    optimizer = replace(probed.optimizer, learning_rate=1e30)
    fit(replace(probed, optimizer=optimizer, on_nonfinite="record"))
    line = records(probed.workdir, "probe")[-1]
    assert line["curvature"] is line["logit_rms"] is line["function_change"] is None
    assert line["stream_rms"] == [None]
