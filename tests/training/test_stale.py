# SPDX-License-Identifier: Apache-2.0
"""Training with stale gradients against n workers written out in NumPy."""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.config import OptimizerConfig, ParallelConfig, PreprocessSpec, RunConfig
from inception_jax.inference.evaluate import load_state
from inception_jax.models.network import Network
from inception_jax.runtime.collectives import bn_options
from inception_jax.runtime.parallel import data_parallel
from inception_jax.training import setup as set_up_of_runs
from inception_jax.training.fit import fit
from inception_jax.training.initial_weights import load_first_weights
from inception_jax.training.optimizer import optimizer_numbers
from inception_jax.training.setup import set_up
from inception_jax.training.stale import replica_at, stale_numbers
from inception_jax.training.state import init_state, state_shapes
from inception_jax.training.step import Numbers, TrainOptions, train_step
from inception_jax.weights.model import read_checkpoint
from tests.models.tiny import one_block


class TwoLayers(Network):
    """A network whose gradient is short in NumPy, with moving averages of its features."""

    @nn.compact
    def __call__(self, images, residual_scale=None, *, train=False):
        pixels = images.reshape(len(images), -1)
        features = nn.relu(nn.Dense(4, name="Stem")(pixels))
        mean = self.variable("batch_stats", "mean", jnp.zeros, 4)
        if train:
            mean.value = self.bn_decay * mean.value + 0.1 * features.mean(0)
        return nn.Dense(5, name="Logits")(features), {}


SPEC = one_block()
TWO_LAYERS = TwoLayers(SPEC, num_classes=5, dropout_rate=0.0, bn_decay=0.9)
OPTIMIZER = OptimizerConfig(learning_rate=0.3, weight_decay=0.01, clip_norm=0.5)
PREPROCESS = PreprocessSpec((8, 8, 1))
STEPS, SEED = 50, 7
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (STEPS, 8, 8, 8, 1), np.uint8)
LABELS = RNG.integers(0, 5, (STEPS, 8))
Arrays = dict[str, np.ndarray]


def trained(
    parallel: ParallelConfig,
    network: Network = TWO_LAYERS,
    optimizer: OptimizerConfig = OPTIMIZER,
    *,
    copies: int = 4,
    devices: int = 1,
    steps: int = STEPS,
    accumulate: int = 1,
) -> Any:
    """Return the state after `steps` updates, and the metrics of each."""
    options = TrainOptions(
        network,
        optimizer,
        1e9,
        preprocess=PREPROCESS,
        accumulate=accumulate,
        group_metrics=True,
    )
    step = data_parallel(
        partial(train_step, options=options), parallel, jax.devices()[:devices]
    )
    stale = stale_numbers(parallel)
    if copies > 1 and stale is None:
        stale = stale_numbers(replace(parallel, stale_replicas=2))._replace(
            replicas=jnp.int32(1)
        )
    numbers = Numbers(
        optimizer_numbers(optimizer), jnp.float32(0.3), jnp.int32(SEED), stale
    )
    state, metrics = jax.device_get(init_state(network, optimizer, SEED, copies)), []
    for pixels, labels in zip(PIXELS[:steps], LABELS[:steps], strict=True):
        state, each = step(state, {"image": pixels, "label": labels}, numbers)
        metrics.append(each)
    return jax.device_get((state, metrics))


def gradients(held: Arrays, pixels: np.ndarray, labels: np.ndarray) -> Any:
    """Return the gradient of the mean loss, the sum of the losses, and mean features."""
    images = pixels.reshape(len(pixels), -1) / 127.5 - 1
    features = np.maximum(images @ held["Stem/kernel"] + held["Stem/bias"], 0)
    logits = features @ held["Logits/kernel"] + held["Logits/bias"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    target = np.eye(5)[labels]
    error = (p - target) / len(p)
    back = error @ held["Logits/kernel"].T * (features > 0)
    grads = {
        "Logits/kernel": features.T @ error,
        "Logits/bias": error.sum(0),
        "Stem/kernel": images.T @ back,
        "Stem/bias": back.sum(0),
    }
    return grads, -np.log((p * target).sum(-1)).sum(), features.mean(0)


def by_path(tree: Any) -> Arrays:
    return {
        f"{a}/{b}": np.float64(x) for a, group in tree.items() for b, x in group.items()
    }


def simulate(
    order: list[int], replicas: int, stagger: int, parts: int = 1, frozen: bool = False
) -> tuple[Arrays, list[Arrays], Arrays, np.ndarray, np.ndarray, list[float]]:
    """Train with workers that apply gradients of their own copies.

    Returns the parameters, the copies, the averaged parameters, the moving averages and
    their average, and the loss of each step.
    """
    shared = by_path(jax.device_get(init_state(TWO_LAYERS, OPTIMIZER, SEED)).params)
    trained = [name for name in shared if not frozen or name.startswith("Logits")]
    copies = [dict(shared) for _ in range(replicas)]
    averaged, mean, averaged_mean = dict(shared), np.zeros(4), np.zeros(4)
    squares = {name: np.ones_like(shared[name]) for name in trained}
    velocity = {name: np.zeros_like(shared[name]) for name in trained}
    losses = []
    for step, worker in enumerate(order):
        if stagger and step % stagger == 0 and step // stagger < replicas:
            copies[step // stagger] = dict(shared)  # it starts, and fetches
        held = copies[worker]
        total, loss = dict.fromkeys(trained, 0.0), 0.0
        for part in np.split(np.arange(8), parts):
            grads, losses_of_part, features = gradients(
                held, PIXELS[step, part], LABELS[step, part]
            )
            total = {name: total[name] + grads[name] / parts for name in trained}
            loss += losses_of_part
            mean = 0.9 * mean + 0.1 * features
        for name in trained:
            total[name] = total[name] + 0.01 * held[name] * name.endswith("kernel")
        norm = np.sqrt(sum((g**2).sum() for g in total.values()))
        decay = min(0.9999, (1 + step) / (10 + step))
        for name in trained:
            g = total[name] * min(1.0, 0.5 / norm)
            squares[name] = 0.9 * squares[name] + 0.1 * g**2
            velocity[name] = 0.9 * velocity[name] + 0.3 * g / np.sqrt(squares[name] + 1.0)
            shared[name] = shared[name] - velocity[name]
            averaged[name] = decay * averaged[name] + (1 - decay) * shared[name]
        averaged_mean = decay * averaged_mean + (1 - decay) * mean
        copies[worker] = dict(shared)
        losses.append(loss)
    return shared, copies, averaged, mean, averaged_mean, losses


@pytest.mark.parametrize(
    ("order", "stagger", "accumulate", "body_rate"),
    [
        ("cyclic", 0, 1, 1.0),
        ("cyclic", 3, 1, 1.0),
        ("random", 0, 2, 1.0),
        ("random", 9, 1, 1.0),
        ("random", 9, 1, 0.0),  # only the classifier is trained
    ],
)
def test_fifty_updates_of_workers_in_numpy(order, stagger, accumulate, body_rate):
    parallel = ParallelConfig(stale_replicas=4, stale_stagger=stagger, stale_order=order)
    numbers = stale_numbers(parallel)
    draw = jax.vmap(partial(replica_at, seed=jnp.int32(SEED), numbers=numbers))
    workers = draw(jnp.arange(STEPS)).tolist()
    if order == "cyclic" and not stagger:
        assert workers == [step % 4 for step in range(STEPS)]
    assert set(workers) == {0, 1, 2, 3}
    optimizer = replace(OPTIMIZER, body_rate=body_rate)
    state, metrics = trained(parallel, optimizer=optimizer, accumulate=accumulate)
    same = (accumulate, not body_rate)
    expected = simulate(workers, 4, stagger, *same)
    copies = [by_path(jax.tree.map(lambda x, i=i: x[i], state.replicas)) for i in range(4)]
    params, averaged = by_path(state.params), by_path(state.ema_params)
    actual = (
        params,
        copies,
        averaged,
        state.batch_stats["mean"],
        state.ema_batch_stats["mean"],
        [float(each["loss_sum"]) for each in metrics],
    )
    trained_copies = [{name: x[name] for name in copies[0]} for x in expected[1]]
    expected = (expected[0], trained_copies, *expected[2:])
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected
    )
    # The test can tell stale gradients from current ones.
    current = simulate([0] * STEPS, 1, 0, *same)[0]
    assert np.abs(current["Logits/kernel"] - params["Logits/kernel"]).max() > 0.01


def test_replicas_start_one_after_another():
    numbers = stale_numbers(ParallelConfig(stale_replicas=4, stale_stagger=15))
    steps = jnp.arange(3000)
    drawn = jax.vmap(partial(replica_at, seed=jnp.int32(0), numbers=numbers))(steps)
    assert set(drawn[:15].tolist()) == {0}
    assert set(drawn[15:30].tolist()) == {0, 1}
    assert set(drawn[30:45].tolist()) == {0, 1, 2}
    counts = np.bincount(drawn[45:])
    np.testing.assert_allclose(counts, len(drawn[45:]) / 4, rtol=0.1)


def test_one_replica_is_the_synchronous_step_bit_for_bit():
    """With batch norm, dropout and all metrics."""
    network = inception_jax.create(SPEC, num_classes=5, dropout_rate=0.5)
    state, metrics = trained(ParallelConfig(), network, copies=3, steps=5)
    expected = trained(ParallelConfig(), network, copies=1, steps=5)
    jax.tree.map(
        np.testing.assert_array_equal, (state._replace(replicas=None), metrics), expected
    )


@pytest.mark.parametrize(
    "wrapper", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)]
)
def test_two_devices_agree_with_one(wrapper):
    parallel = ParallelConfig(wrapper, "global", stale_replicas=4, stale_stagger=2)
    one, two = (
        trained(
            parallel,
            inception_jax.create(SPEC, num_classes=5, **bn_options(parallel, devices)),
            devices=devices,
            steps=10,
        )
        for devices in (1, 2)
    )
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
    (_, whole), (_, resumed) = (
        read_checkpoint(tmp_path / name, None) for name in ("whole", "parts")
    )
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    for name in (name for name in whole if name.startswith("params/")):
        copies = whole[f"replicas/{name.removeprefix('params/')}"]
        assert len(copies) == 3
        assert any((copy == whole[name]).all() for copy in copies)  # that of the last step
        assert not (copies == whole[name]).all()
    state = jax.device_get(load_state(tmp_path / "whole", jax.devices()).state)
    assert state.replicas is None  # evaluation does not need them
    with pytest.raises(ValueError, match=r"parallel\.stale_replicas 3 instead of 2"):
        set_up(replace(parts, parallel=ParallelConfig(stale_replicas=2)))
    # Weights of such a run are those of any other, and all replicas start from them.
    start = replace(config, first_weights=str(tmp_path / "whole"), head="kept")
    initial = load_first_weights(state, start)
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
    one, four = (state_shapes(TWO_LAYERS, OPTIMIZER, n) for n in (1, 4))
    assert one.replicas is None
    shapes = jax.tree.map(lambda x: x.shape[1:], four.replicas)
    assert shapes == jax.tree.map(lambda x: x.shape, one.params)
