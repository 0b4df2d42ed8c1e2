# SPDX-License-Identifier: Apache-2.0
"""The training step against the same step written out here, and evaluation."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import inception_jax
from inception_jax.config import (
    LossConfig,
    OptimizerConfig,
    ParallelConfig,
    PreprocessSpec,
)
from inception_jax.data.augment import distort_color, normalize
from inception_jax.runtime.parallel import data_parallel
from inception_jax.training.losses import cross_entropy
from inception_jax.training.optimizer import make_optimizer, optimizer_numbers
from inception_jax.training.state import TrainState, init_state
from inception_jax.training.step import (
    Gradients,
    Numbers,
    TrainOptions,
    accumulate_gradients,
    eval_step,
    network_input,
    train_step,
)
from tests.models.tiny import one_block, random_variables

# A block on the 17x17 grid (role B), so that an auxiliary head can follow it.
SPEC = one_block(image_shape=(34, 34, 1))
SPEC = replace(SPEC, stages=(replace(SPEC.stages[0], role="B"),))
NETWORK = inception_jax.create(SPEC, aux_head=True, num_classes=5)
RATE, STEP = 1.0, 9
OPTIMIZER = OptimizerConfig(learning_rate=RATE, weight_decay=0.01, clip_norm=0.5)
LOSS = LossConfig(label_smoothing=0.2, aux_weight=0.7)
NUMBERS = Numbers(optimizer_numbers(OPTIMIZER), jnp.float32(0.3), jnp.int32(0))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 34, 34, 1), np.uint8)
PREPROCESS = PreprocessSpec((34, 34, 1), low=-2.0, high=1.0)
IMAGES = jnp.asarray(PIXELS.astype(np.float32) / 255 * 3 - 2)
LABELS = jnp.asarray(RNG.integers(0, 5, 6))


@cache
def start() -> TrainState:
    """Return a made-up state after nine steps, with averages far from the weights."""
    variables = random_variables(NETWORK, IMAGES)
    params = variables["params"]
    opt_state = make_optimizer(OPTIMIZER, 0.0).init(params)
    now = params, variables["batch_stats"]
    averages = jax.tree.map(lambda leaf: leaf + 1.0, now)
    return jax.device_get(TrainState(jnp.int32(STEP), *now, *averages, opt_state))


@cache
def stepped(group_metrics: bool = True) -> tuple[TrainState, dict[str, Any]]:
    options = TrainOptions(
        NETWORK, OPTIMIZER, 2.0, LOSS, PREPROCESS, group_metrics=group_metrics
    )
    step = partial(train_step, options=options)
    run = data_parallel(step, ParallelConfig(), jax.devices()[:1])
    batch = {"image": PIXELS, "label": np.asarray(LABELS)}
    return jax.device_get(run(start(), batch, NUMBERS))


@cache
def by_hand() -> tuple[dict, dict, jax.Array]:
    """Return gradients, moving averages and the losses of the main classifier."""

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params):
        (logits, endpoints), updated = NETWORK.apply(
            {"params": params, "batch_stats": start().batch_stats},
            *(IMAGES, 0.3),
            train=True,
            mutable=["batch_stats"],
        )

        def smoothed(logits):
            targets = 0.8 * jax.nn.one_hot(LABELS, 5) + 0.2 / 5
            return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)

        losses = smoothed(logits)
        total = losses.mean() + 0.7 * smoothed(endpoints["AuxLogits"]).mean()
        return total, (updated["batch_stats"], losses)

    grads, (batch_stats, losses) = gradients(start().params)
    return jax.device_get((grads, batch_stats, losses))


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def assert_close(result: Any, expected: Any) -> None:
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), result, expected
    )


def rate_of_the_step() -> float:
    return RATE * 0.94 ** (STEP // 4)  # two epochs of two steps each


def test_parameters():
    """Weight decay of kernels, clipping to 0.5, then RMSProp with initial mean 1."""
    grads, _, _ = by_hand()
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, g, p: g + 0.01 * p * (path[-1].key == "kernel"), grads, start().params
    )
    assert norm(decayed) > 1.0
    clipped = jax.tree.map(lambda g: g * 0.5 / norm(decayed), decayed)
    expected = jax.tree.map(
        lambda g: -rate_of_the_step() * g / np.sqrt(0.9 + 0.1 * g**2 + 1.0), clipped
    )
    changes = jax.tree.map(np.subtract, stepped()[0].params, start().params)
    assert_close(changes, expected)
    assert norm(changes["AuxLogits"]) > 0.01


def test_the_rest_of_the_state():
    state, _ = stepped()
    assert state.step == STEP + 1
    assert_close(state.batch_stats, by_hand()[1])
    # TensorFlow's rule after nine updates: (1 + 9) / (10 + 9).
    share = 10 / 19
    expected = jax.tree.map(
        lambda old, new: share * old + (1 - share) * new,
        *(start().ema_variables, state.raw_variables),
    )
    assert_close(state.ema_variables, expected)


def test_metrics():
    grads, _, losses = by_hand()
    _, metrics = stepped()
    assert metrics["count"] == 6
    assert metrics["loss_sum"] == pytest.approx(losses.sum(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm(grads), rel=1e-4)
    assert metrics["learning_rate"] == pytest.approx(rate_of_the_step(), rel=1e-6)
    assert set(metrics) >= {"top1_sum", "top5_sum"}


def test_metrics_of_groups():
    """Gradient norms are before decay and clipping, update ratios after."""
    grads, _, _ = by_hand()
    state, metrics = stepped()
    changes = jax.tree.map(np.subtract, state.params, start().params)
    block = "block8_1"

    def by_group(tree: dict) -> dict[str, float]:
        return {
            "stem": norm(tree["Stem"]),
            "branches": norm(tree[block]["Branch_0"]),
            "linear": norm(tree[block]["Conv2d_1x1"]),
            "other": norm(tree["AuxLogits"]),
            "classifier": norm(tree["Logits"]),
        }

    weights, moved = by_group(start().params), by_group(changes)
    for group, gradient in by_group(grads).items():
        assert metrics[f"grad_norm/{group}"] == pytest.approx(gradient, rel=1e-3)
        ratio = moved[group] / weights[group]
        assert metrics[f"update_ratio/{group}"] == pytest.approx(ratio, rel=1e-3)


def test_group_metrics_are_optional():
    _, metrics = stepped(group_metrics=False)
    assert not any("/" in name for name in metrics)


def test_parts_of_a_batch_have_their_own_dropout():
    def draw(stats: dict, batch: dict, rng: jax.Array) -> Gradients:
        x = jax.random.uniform(rng) + 0 * batch["x"][0]
        return Gradients({"g": x}, stats, {"sum": x, "squares": x**2})

    one = partial(accumulate_gradients, draw, {}, parts=2, axis_name="data")
    rngs = jax.random.split(jax.random.key(0), 1)
    mean, _, sums = jax.pmap(one, "data")({"x": jnp.zeros((1, 2))}, rngs)
    assert mean["g"] == pytest.approx(sums["sum"] / 2)
    assert sums["squares"] != pytest.approx(sums["sum"] ** 2 / 2)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_evaluation_counts_each_example_once_on_1_2_and_4_devices(wrapper):
    """Six examples and two of padding, which repeat the first one."""
    image, label = PIXELS, np.asarray(LABELS)
    batch = {
        "image": np.concatenate([image, image[:1], image[:1]]),
        "label": np.concatenate([label, label[:1], label[:1]]),
        "mask": np.array([1.0] * 6 + [0.0] * 2, np.float32),
    }
    variables = start().raw_variables
    logits, _ = jax.jit(NETWORK.apply)(variables, IMAGES, NUMBERS.residual_scale)
    expected = {
        "count": 6.0,
        "loss_sum": jnp.sum(cross_entropy(logits, LABELS)),
        "top1_sum": jnp.sum(jnp.argmax(logits, axis=-1) == LABELS),
        "top5_sum": 6.0,
    }
    step = partial(eval_step, network=NETWORK, preprocess=PREPROCESS)
    for devices in (1, 2, 4):
        config = ParallelConfig(wrapper)
        run = data_parallel(step, config, jax.devices()[:devices], donate=False)
        assert_close(run(variables, batch, NUMBERS), expected)


def test_input_of_the_network():
    """Colours are distorted if the batch has seeds, then scaled to the range."""
    pixels = RNG.integers(0, 256, (2, 5, 4, 3), np.uint8)
    spec = PreprocessSpec((5, 4, 3), low=-2.0, high=1.0)
    plain = network_input({"image": jnp.asarray(pixels)}, spec)
    np.testing.assert_allclose(plain, pixels / 255 * 3 - 2, rtol=1e-5, atol=1e-6)
    seeds = jnp.array([1, 2], jnp.uint32)
    colored = network_input({"image": jnp.asarray(pixels), "color_seed": seeds}, spec)
    expected = normalize(distort_color(jnp.asarray(pixels), seeds), -2.0, 1.0)
    np.testing.assert_array_equal(colored, expected)
    assert np.abs(colored - plain).max() > 0.1


def test_a_fresh_state():
    """It is not compiled, because XLA gives even equal outputs separate buffers."""
    network = inception_jax.create(one_block(stages=()))
    state, again, other = (init_state(network, OptimizerConfig(), s) for s in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, state, again)
    kernel = state.params["Logits"]["kernel"]
    assert (kernel != other.params["Logits"]["kernel"]).any()
    assert state.step == 0
    # Equal values in separate buffers, so that both can be donated.
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, state.params)
    pairs = zip(*map(jax.tree.leaves, (state.ema_params, state.params)), strict=True)
    assert state.ema_batch_stats.keys() == state.batch_stats.keys()
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs)
    # The mean of squares starts at ones (TensorFlow 1), the momentum at zeros.
    starts = {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(state.opt_state)}
    assert starts == {0.0, 1.0}
    assert optax.tree.norm(state.params) > 0
