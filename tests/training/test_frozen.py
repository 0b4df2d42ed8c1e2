# SPDX-License-Identifier: Apache-2.0
"""Training steps with a frozen body or frozen batch norm."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.config import LossConfig, OptimizerConfig, PreprocessSpec
from inception_jax.training.losses import cross_entropy
from inception_jax.training.optimizer import (
    make_optimizer,
    optimizer_numbers,
    trainable_params,
)
from inception_jax.training.state import TrainState
from inception_jax.training.step import Numbers, TrainOptions, train_step
from tests.models.tiny import one_block, random_variables

NETWORK = inception_jax.create(one_block(), num_classes=5)
OPTIMIZER = OptimizerConfig(learning_rate=1.0, weight_decay=0.01, clip_norm=0.5)
FROZEN = replace(OPTIMIZER, body_rate=0.0)
NUMBERS = Numbers(optimizer_numbers(OPTIMIZER), jnp.float32(0.3), jnp.int32(0))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 1), np.uint8)
IMAGES = jnp.asarray(PIXELS.astype(np.float32) / 255 * 2 - 1)
LABELS = np.arange(6, dtype=np.int32) % 5
assert_same = partial(jax.tree.map, np.testing.assert_array_equal)


@cache
def start(optimizer: OptimizerConfig = OPTIMIZER) -> TrainState:
    """Return a made-up state after nine steps, with averages far from the weights."""
    rng = np.random.default_rng(1)
    variables = random_variables(NETWORK, IMAGES)
    params = variables["params"]
    stats = jax.tree.map(
        lambda x: x + rng.uniform(0, 1, x.shape).astype(np.float32),
        variables["batch_stats"],
    )
    averages = jax.tree.map(lambda x: x + np.float32(0.3), (params, stats))
    opt_state = make_optimizer(optimizer, 0.0).init(trainable_params(params, optimizer))
    state = TrainState(jnp.int32(9), params, stats, *averages, opt_state)
    return jax.device_get(state)


@cache
def program(
    optimizer: OptimizerConfig = OPTIMIZER, bn_frozen: bool = False, devices: int = 1
) -> jax.stages.Compiled:
    """Return a compiled step of the six images on a number of devices."""
    network = NETWORK.clone(bn_frozen=bn_frozen)
    options = TrainOptions(network, optimizer, 2.0, LossConfig(), PreprocessSpec((8, 8, 1)))
    step = partial(train_step, options=options, axis_name="data")
    mapped = jax.pmap(
        step,
        "data",
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.devices()[:devices],
    )
    return mapped.lower(start(optimizer), batch(devices), NUMBERS).compile()


def batch(devices: int) -> dict[str, np.ndarray]:
    parts = {"image": PIXELS, "label": LABELS}
    return {name: x.reshape(devices, -1, *x.shape[1:]) for name, x in parts.items()}


@cache
def stepped(*of: Any, devices: int = 1) -> tuple[TrainState, dict[str, Any]]:
    run = program(*of, devices=devices)
    return jax.device_get(run(start(*of[:1]), batch(devices), NUMBERS))


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def test_a_frozen_body_stays_bit_by_bit():
    """So do its averages; only the classifier learns and has optimizer state."""
    before, (state, _), (whole, _) = start(FROZEN), stepped(FROZEN), stepped(OPTIMIZER)
    for name in before.params.keys() - {"Logits"}:
        assert_same(state.params[name], before.params[name])
        assert_same(state.ema_params[name], before.ema_params[name])
        assert norm(jax.tree.map(np.subtract, whole.params[name], before.params[name])) > 0
    head = before.params["Logits"]
    a, b = (
        np.concatenate([(s.params["Logits"][k] - head[k]).ravel() for k in sorted(head)])
        for s in (state, whole)
    )
    # The direction is that of the whole network; the norm is clipped without the body.
    assert np.dot(a, b) / norm(a) / norm(b) == pytest.approx(1, abs=0.01)
    assert norm(a) > 1.05 * norm(b)
    assert norm(jax.tree.map(np.subtract, state.ema_params["Logits"], head)) > 0.1
    # A mean of squares and a momentum.
    sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (state.opt_state, head)]
    assert sizes[0] == 2 * sizes[1]
    # The moving averages of batch norm are not frozen.
    assert norm(jax.tree.map(np.subtract, state.batch_stats, before.batch_stats)) > 0.1


def test_there_is_no_backward_pass_through_a_frozen_body():
    """The forward pass is a third of a step."""
    flops = [program(x).cost_analysis()["flops"] for x in (FROZEN, OPTIMIZER)]
    assert flops[0] < 0.45 * flops[1]


def test_frozen_batch_norm_is_that_of_evaluation():
    """Averages stay unchanged bit for bit; a mean of three equal values might not."""
    before = start()
    state, metrics = stepped(OPTIMIZER, True, devices=3)
    assert_same(state.batch_stats, before.batch_stats)
    assert_same(state.ema_batch_stats, before.ema_batch_stats)
    look = jax.jit(NETWORK.apply)
    logits, _ = look(before.raw_variables, IMAGES, NUMBERS.residual_scale)
    expected = float(jnp.sum(cross_entropy(logits, jnp.asarray(LABELS))))
    assert metrics["loss_sum"] == pytest.approx(expected, rel=1e-4)
    assert stepped(OPTIMIZER)[1]["loss_sum"] != pytest.approx(expected, rel=1e-2)
    stem = jax.tree.map(np.subtract, state.params["Stem"], before.params["Stem"])
    assert norm(stem) > 0.01
