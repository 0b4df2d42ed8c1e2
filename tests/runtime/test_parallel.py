# SPDX-License-Identifier: Apache-2.0
"""Training on 1, 2 and 4 devices, mapped by pmap and by shard_map, agrees."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.config import OptimizerConfig, ParallelConfig
from inception_jax.data.augment import normalize
from inception_jax.runtime.collectives import bn_options
from inception_jax.runtime.parallel import data_parallel
from inception_jax.training.losses import cross_entropy
from inception_jax.training.optimizer import make_optimizer, optimizer_numbers
from inception_jax.training.state import TrainState
from inception_jax.training.step import Numbers, TrainOptions, eval_step, train_step
from tests.models.tiny import one_block, random_variables

BATCH = 16
STEPS = 3
# Momentum: its first update is the gradient times the rate, so rounding is not amplified.
OPTIMIZER = OptimizerConfig(kind="momentum", epochs_per_decay=1.0)
SPEC = one_block()
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": RNG.integers(0, 256, (BATCH, 8, 8, 1), np.uint8),
        "label": RNG.integers(0, 10, BATCH),
    }
    for _ in range(STEPS)
]


def numbers_of(rate: float, scale: float, seed: int) -> Numbers:
    optimizer = optimizer_numbers(replace(OPTIMIZER, learning_rate=rate))
    return Numbers(optimizer, jnp.float32(scale), jnp.int32(seed))


NUMBERS = numbers_of(0.1, 0.3, 0)
ROUNDING = {"rtol": 2e-5, "atol": 1e-6}


@cache
def start() -> TrainState:
    """Return the initial state of all tests, in NumPy so that no step can consume it."""
    images = normalize(jnp.asarray(BATCHES[0]["image"]), -1.0, 1.0)
    variables = jax.device_get(random_variables(inception_jax.create(SPEC), images))
    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = jax.device_get(make_optimizer(OPTIMIZER, 0.0).init(params))
    averages = jax.tree.map(np.copy, (params, batch_stats))
    return TrainState(np.int32(0), params, batch_stats, *averages, opt_state)


def mapped(
    config: ParallelConfig,
    devices: int,
    dropout: float = 0.0,
    accumulate: int = 1,
    remat: bool = False,
):
    network = inception_jax.create(
        SPEC, dropout_rate=dropout, remat=remat, **bn_options(config, devices)
    )
    options = TrainOptions(network, OPTIMIZER, 2.0, accumulate=accumulate)
    step = partial(train_step, options=options)
    return data_parallel(step, config, jax.devices()[:devices])


mapped_once = cache(mapped)  # for tests that can share the compiled step


@cache
def trained(wrapper: str, bn_sync: str | int, devices: int) -> list[tuple[Any, dict]]:
    """Return (state, metrics) after each of three steps from `start`."""
    run = mapped_once(ParallelConfig(wrapper, bn_sync), devices)
    state, results = start(), []
    for batch in BATCHES:
        state, metrics = run(state, batch, NUMBERS)
        results.append(jax.device_get((state, metrics)))
    return results


def assert_close(result: Any, expected: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, **ROUNDING), result, expected)


def assert_different(result: Any, other: Any) -> None:
    with pytest.raises(AssertionError):
        assert_close(result, other)


@cache
def by_hand(groups: int, in_turn: bool = False) -> tuple[dict, dict]:
    """Return mean gradients and moving averages over `groups` parts of the first batch.

    The parts are independent or, with `in_turn`, each continues the averages of the last.
    """
    network = inception_jax.create(SPEC)

    @jax.jit
    def part(params, batch_stats, image, label):
        def loss(params):
            (logits, _), updated = network.apply(
                {"params": params, "batch_stats": batch_stats},
                *(normalize(image, -1.0, 1.0), NUMBERS.residual_scale),
                train=True,
                mutable=["batch_stats"],
            )
            return cross_entropy(logits, label).mean(), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    images, labels = (np.split(BATCHES[0][key], groups) for key in ("image", "label"))
    parts, batch_stats = [], start().batch_stats
    for image, label in zip(images, labels, strict=True):
        parts.append(part(start().params, batch_stats, image, label))
        if in_turn:
            batch_stats = parts[-1][1]
    grads, stats = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)
    return grads, batch_stats if in_turn else stats


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [2, 4])
def test_global_statistics_make_the_number_of_devices_irrelevant(wrapper, devices):
    assert_close(trained(wrapper, "global", devices), trained("pmap", "global", 1))


@pytest.mark.parametrize(
    ("bn_sync", "devices"),
    [("none", 4), ("none", 2), (2, 4), ("global", 4), ("global", 2)],
)
def test_pmap_equals_shard_map(bn_sync, devices):
    assert_close(trained("shard_map", bn_sync, devices), trained("pmap", bn_sync, devices))


@pytest.mark.parametrize(
    ("bn_sync", "devices", "groups"),
    [("none", 4, 4), ("none", 2, 2), (2, 4, 2)],
)
def test_a_step_is_the_mean_over_groups_computed_by_hand(bn_sync, devices, groups):
    assert_step(trained("pmap", bn_sync, devices)[0], *by_hand(groups))


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_accumulation_is_the_mean_over_parts_computed_by_hand(wrapper):
    run = mapped(ParallelConfig(wrapper), 1, accumulate=4)
    assert_step(run(start(), BATCHES[0], NUMBERS), *by_hand(4, in_turn=True))


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_accumulation_on_four_devices(wrapper):
    """The first parts of all devices together are the first part of one device."""
    run = mapped(ParallelConfig(wrapper, "global"), 4, accumulate=2)
    order = np.arange(BATCH).reshape(4, 2, 2).transpose(1, 0, 2).ravel()
    reordered = {name: x[order] for name, x in BATCHES[0].items()}
    alone = mapped(ParallelConfig(wrapper), 1, accumulate=2)
    result = run(start(), BATCHES[0], NUMBERS)
    assert_close(*jax.device_get((result, alone(start(), reordered, NUMBERS))))


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
@pytest.mark.parametrize("bn_sync", ["none", 2])
def test_accumulation_with_other_statistics(wrapper, bn_sync):
    run = mapped(ParallelConfig(wrapper, bn_sync), 4, accumulate=2)
    state, metrics = run(start(), BATCHES[0], NUMBERS)
    assert metrics["count"] == BATCH
    one_part = trained(wrapper, bn_sync, 4)[0][0]
    assert_different(jax.device_get(state.params), one_part.params)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_rematerialised_blocks_share_their_statistics(wrapper):
    run = mapped(ParallelConfig(wrapper, "global"), 2, remat=True)
    result = jax.device_get(run(start(), BATCHES[0], NUMBERS))
    assert_close(result, trained(wrapper, "global", 2)[0])


def assert_step(result: tuple[TrainState, dict], gradients: dict, stats: dict) -> None:
    """Check that `result` is `start` updated by `gradients`, with averages `stats`."""
    state, metrics = jax.device_get(result)
    assert_close(state.batch_stats, stats)
    assert metrics["count"] == BATCH
    momentum = jax.tree.leaves(state.opt_state)
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, g, p: g + 4e-5 * p * (path[-1].key == "kernel"),
        *(gradients, start().params),
    )
    assert_close(momentum, jax.tree.leaves(decayed))
    squares = sum(np.sum(g**2) for g in jax.tree.leaves(gradients))
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(squares), rtol=1e-5)


def test_groupings_of_statistics_give_different_results():
    modes = [trained("pmap", bn_sync, 4)[0][0] for bn_sync in ("none", 2, "global")]
    for i in range(3):
        assert_different(modes[i].batch_stats, modes[i - 1].batch_stats)
        assert_different(modes[i].params, modes[i - 1].params)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_one_compilation_serves_all_numbers_and_steps(wrapper, compilations):
    run = mapped(ParallelConfig(wrapper), 4, dropout=0.5)
    values = [(0.1, 0.1, 0), (0.2, 0.1, 0), (0.1, 0.9, 0), (0.1, 0.1, 7)]
    sweep = [numbers_of(*value) for value in values]
    state, _ = run(start(), BATCHES[0], sweep[0])
    assert compilations
    compilations.clear()
    losses = set()
    for numbers in sweep:
        after, metrics = run(start(), BATCHES[0], numbers)
        _, metrics = run(after, BATCHES[1], numbers)
        losses.add(float(metrics["loss_sum"]))
    run(state, BATCHES[1], sweep[0])
    assert not compilations
    assert len(losses) == len(sweep)  # each number has an effect


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_a_state_is_consumed_and_resuming_is_exact(wrapper):
    run = mapped_once(ParallelConfig(wrapper), 4, dropout=0.5)
    first, _ = run(start(), BATCHES[0], NUMBERS)
    saved = jax.tree.map(np.copy, jax.device_get(first))
    second, _ = run(first, BATCHES[1], NUMBERS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    expected = jax.device_get(run(second, BATCHES[2], NUMBERS))
    again, _ = run(saved, BATCHES[1], NUMBERS)
    resumed = run(again, BATCHES[2], NUMBERS)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)


def test_a_state_in_numpy_is_unchanged():
    before = jax.tree.map(np.copy, start())
    mapped_once(ParallelConfig(), 2)(start(), BATCHES[0], NUMBERS)
    jax.tree.map(np.testing.assert_array_equal, start(), before)


def test_dropout_differs_between_shards_seeds_and_steps():
    """All examples are equal, so only dropout can make a difference."""
    same = {key: np.repeat(x[:1], BATCH, axis=0) for key, x in BATCHES[0].items()}

    def loss(devices: int, dropout: float, seed: int = 0, step: int = 0) -> float:
        run = mapped_once(ParallelConfig(), devices, dropout)
        batch = {key: x[: devices * BATCH // 4] for key, x in same.items()}
        state = start()._replace(step=np.int32(step))
        metrics = run(state, batch, NUMBERS._replace(seed=jnp.int32(seed)))[1]
        return float(metrics["loss_sum"] / metrics["count"])

    without = loss(4, 0.0)
    first_shard = loss(1, 0.5)
    assert first_shard != pytest.approx(without, rel=1e-3)
    # The first of four shards has the dropout mask of a single one; the others do not.
    assert loss(4, 0.5) != pytest.approx(first_shard, rel=1e-3)
    assert loss(1, 0.5) == first_shard
    assert loss(1, 0.5, seed=1) != pytest.approx(first_shard, rel=1e-3)
    assert loss(1, 0.5, step=1) != pytest.approx(first_shard, rel=1e-5)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_a_batch_that_does_not_divide(wrapper):
    batch = {key: x[:14] for key, x in BATCHES[0].items()}
    with pytest.raises(ValueError, match="does not divide evenly among 4 devices") as error:
        mapped_once(ParallelConfig(wrapper), 4)(start(), batch, NUMBERS)
    assert "a batch of 14 (image)" in str(error.value)
    assert "choose a multiple" in str(error.value)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
@pytest.mark.parametrize(("bn_sync", "devices"), [(3, 4), (2, 1), (4, 2)])
def test_groups_that_do_not_divide(wrapper, bn_sync, devices):
    message = f"bn_sync={bn_sync} does not divide the {devices} devices"
    with pytest.raises(ValueError, match=message) as error:
        bn_options(ParallelConfig(wrapper, bn_sync), devices)
    assert "choose a divisor, none or global" in str(error.value)
    with pytest.raises(ValueError, match=message):
        data_parallel(eval_step, ParallelConfig(wrapper, bn_sync), jax.devices()[:devices])
