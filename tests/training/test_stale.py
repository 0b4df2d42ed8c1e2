# SPDX-License-Identifier: Apache-2.0
"""Training with stale gradients against n workers written out in NumPy."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.config import OptimizerConfig, ParallelConfig, PreprocessSpec, RunConfig
from inception_jax.inference.evaluate import load_state
from inception_jax.runtime.parallel import data_parallel
from inception_jax.training import setup as set_up_of_runs
from inception_jax.training.fit import fit
from inception_jax.training.initial_weights import load_first_weights
from inception_jax.training.optimizer import optimizer_numbers
from inception_jax.training.setup import set_up
from inception_jax.training.stale import replica_at, stale_numbers
from inception_jax.training.state import init_state, state_shapes
from inception_jax.training.step import Numbers, TrainOptions, train_step
from tests.models.tiny import one_block

SPEC = one_block(image_shape=(34, 34, 1))
# Frozen batch norm and no dropout, so that features do not change if the body is frozen.
NETWORK = inception_jax.create(SPEC, num_classes=5, bn_frozen=True, dropout_rate=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=0.3, weight_decay=0.01)
CLASSIFIER_ONLY = replace(OPTIMIZER, body_rate=0.0)
PREPROCESS = PreprocessSpec((34, 34, 1))
STEPS = 50
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (STEPS, 6, 34, 34, 1), np.uint8)
LABELS = RNG.integers(0, 5, (STEPS, 6))


def trained(
    parallel: ParallelConfig,
    optimizer: OptimizerConfig = CLASSIFIER_ONLY,
    *,
    copies: int = 4,
    devices: int = 1,
    steps: int = STEPS,
) -> Any:
    """Return the state after `steps` updates, and the metrics of the last one."""
    options = TrainOptions(NETWORK, optimizer, 1e9, preprocess=PREPROCESS)
    step = data_parallel(
        partial(train_step, options=options), parallel, jax.devices()[:devices]
    )
    stale = stale_numbers(parallel)
    if copies > 1 and stale is None:
        stale = stale_numbers(replace(parallel, stale_replicas=2))._replace(
            replicas=jnp.int32(1)
        )
    numbers = Numbers(optimizer_numbers(optimizer), jnp.float32(0.3), jnp.int32(7), stale)
    state = init_state(NETWORK, optimizer, 7, copies)
    for pixels, labels in zip(PIXELS[:steps], LABELS[:steps], strict=True):
        state, metrics = step(state, {"image": pixels, "label": labels}, numbers)
    return jax.device_get((state, metrics))


def simulate(order: list[int], replicas: int, stagger: int) -> dict[str, np.ndarray]:
    """Train the classifier with workers that apply gradients of their own copies."""
    start = jax.device_get(init_state(NETWORK, CLASSIFIER_ONLY, 7))
    shared = {name: x.astype(np.float64) for name, x in start.params["Logits"].items()}
    copies = [dict(shared) for _ in range(replicas)]
    squares = {name: np.ones_like(x) for name, x in shared.items()}
    velocity = {name: np.zeros_like(x) for name, x in shared.items()}
    for step, worker in enumerate(order):
        if stagger and step % stagger == 0 and step // stagger < replicas:
            copies[step // stagger] = dict(shared)  # it joins and fetches
        held = copies[worker]
        logits = FEATURES[step] @ held["kernel"] + held["bias"]
        p = np.exp(logits - logits.max(-1, keepdims=True))
        error = (p / p.sum(-1, keepdims=True) - np.eye(5)[LABELS[step]]) / len(logits)
        grads = {
            "kernel": FEATURES[step].T @ error + 0.01 * held["kernel"],
            "bias": error.sum(0),
        }
        for name, g in grads.items():
            squares[name] = 0.9 * squares[name] + 0.1 * g**2
            velocity[name] = 0.9 * velocity[name] + 0.3 * g / np.sqrt(squares[name] + 1.0)
            shared[name] = shared[name] - velocity[name]
        copies[worker] = dict(shared)
    return shared


def features() -> np.ndarray:
    """Return the features of every batch, which the frozen body does not change."""
    state = init_state(NETWORK, CLASSIFIER_ONLY, 7)
    images = PIXELS.reshape(-1, 34, 34, 1) / 127.5 - 1
    _, endpoints = NETWORK.apply(state.raw_variables, jnp.float32(images), 0.3)
    pooled = np.asarray(endpoints["PreLogitsFlatten"], np.float64)
    return pooled.reshape(STEPS, 6, -1)


FEATURES = features()


@pytest.mark.parametrize(
    ("order", "stagger"), [("cyclic", 0), ("random", 0), ("random", 9)]
)
def test_fifty_updates_of_workers_in_numpy(order, stagger):
    parallel = ParallelConfig(stale_replicas=4, stale_stagger=stagger, stale_order=order)
    if order == "cyclic":
        workers = [step % 4 for step in range(STEPS)]
    else:
        numbers = stale_numbers(parallel)
        draw = jax.vmap(partial(replica_at, seed=jnp.int32(7), numbers=numbers))
        workers = draw(jnp.arange(STEPS)).tolist()
        assert len(set(workers)) == 4
    expected = simulate(workers, 4, stagger)
    state, _ = trained(parallel)
    for name, value in state.params["Logits"].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
        # The test can tell stale gradients from current ones.
        current = simulate([0] * STEPS, 1, 0)[name]
        assert np.abs(current - expected[name]).max() > 0.01


def test_replicas_join_one_after_another():
    numbers = stale_numbers(ParallelConfig(stale_replicas=4, stale_stagger=15))
    steps = jnp.arange(3000)
    drawn = jax.vmap(partial(replica_at, seed=jnp.int32(0), numbers=numbers))(steps)
    assert set(drawn[:15].tolist()) == {0}
    assert set(drawn[15:30].tolist()) == {0, 1}
    assert set(drawn[30:45].tolist()) == {0, 1, 2}
    counts = np.bincount(drawn[45:])
    np.testing.assert_allclose(counts, len(drawn[45:]) / 4, rtol=0.1)


def test_one_replica_is_the_synchronous_step_bit_for_bit():
    state, metrics = trained(ParallelConfig(), OPTIMIZER, copies=3, steps=5)
    expected = trained(ParallelConfig(), OPTIMIZER, copies=1, steps=5)
    jax.tree.map(
        np.testing.assert_array_equal, (state._replace(replicas=None), metrics), expected
    )


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_two_devices_agree_with_one(wrapper):
    parallel = ParallelConfig(wrapper, stale_replicas=4, stale_stagger=2)
    one, two = (trained(parallel, OPTIMIZER, devices=n, steps=10) for n in (1, 2))
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, two, one)


def stale_run(tiny: RunConfig, **changes: Any) -> RunConfig:
    parallel = ParallelConfig(stale_replicas=3, stale_stagger=1, **changes)
    return replace(tiny, parallel=parallel)


def test_resuming_is_exact(tiny, tmp_path, capsys):
    config = stale_run(tiny)
    fit(replace(config, workdir=tmp_path / "whole"))
    assert (
        "3 replicas with stale gradients; their parameters take" in capsys.readouterr().out
    )
    parts = replace(config, workdir=tmp_path / "parts")
    fit(replace(parts, steps=4))
    assert fit(parts)
    whole, resumed = (
        jax.device_get(load_state(tmp_path / name, jax.devices()).state)
        for name in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    for copies, shared in zip(
        jax.tree.leaves(whole.replicas), jax.tree.leaves(whole.params), strict=True
    ):
        assert copies.shape == (3, *shared.shape)
        assert any((copy == shared).all() for copy in copies)  # that of the last step
        assert not (copies == shared).all()
    with pytest.raises(ValueError, match=r"parallel\.stale_replicas 3 instead of 2"):
        set_up(replace(parts, parallel=ParallelConfig(stale_replicas=2)))
    # Weights of such a run are those of any other, and all replicas start from them.
    start = replace(config, first_weights=str(tmp_path / "whole"), head="kept")
    initial = load_first_weights(whole, start)
    expected = jax.tree.map(lambda x: np.stack([x] * 3), initial.params)
    jax.tree.map(np.testing.assert_array_equal, initial.replicas, expected)


def test_refusals(tiny, monkeypatch):
    with pytest.raises(ValueError, match="stale_stagger must be 0 with stale_replicas 1"):
        ParallelConfig(stale_stagger=15)
    config = stale_run(tiny)
    set_up(config)
    monkeypatch.setattr(set_up_of_runs, "device_memory", lambda: 10_000)
    with pytest.raises(
        ValueError, match=r"stale_replicas=3 needs .* 10\.0 kB; choose fewer"
    ):
        set_up(config)
    set_up(tiny)  # without copies nothing is checked


def test_memory_of_the_copies():
    one, four = (state_shapes(NETWORK, OPTIMIZER, n) for n in (1, 4))
    assert one.replicas is None
    shapes = jax.tree.map(lambda x: x.shape[1:], four.replicas)
    assert shapes == jax.tree.map(lambda x: x.shape, one.params)
