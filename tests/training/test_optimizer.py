# SPDX-License-Identifier: Apache-2.0
"""Updates against TensorFlow 1's rules, written with NumPy in float64."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inception_jax.config import OptimizerConfig
from inception_jax.training.optimizer import (
    learning_rate_at,
    make_optimizer,
    optimizer_numbers,
    trainable_params,
    update_ema,
)

STEPS_PER_EPOCH = 10.0
STEPS = 50
RNG = np.random.default_rng(0)
START = RNG.normal(size=6)
# Gradients of changing direction and size, from 0.01 to 10.
GRADIENTS = RNG.normal(size=(STEPS, 6)) * 10 ** RNG.uniform(-2, 1, (STEPS, 1))


def rates() -> np.ndarray:
    """0.045, times 0.94 every two epochs, at every step."""
    return 0.045 * 0.94 ** (np.arange(STEPS) // (2 * STEPS_PER_EPOCH))


def tensorflow_rmsprop(start: np.ndarray) -> np.ndarray:
    """tf.train.RMSPropOptimizer(rate, decay=0.9, momentum=0.9, epsilon=1.0).

    Source: tensorflow/core/kernels/training_ops.cc, ApplyRMSProp; its slot "rms" starts
    at ones (tensorflow/python/training/rmsprop.py).
    """
    weight, square, momentum = start.copy(), np.ones_like(start), np.zeros_like(start)
    for gradient, rate in zip(GRADIENTS, rates(), strict=True):
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.9 * momentum + rate * gradient / np.sqrt(square + 1.0)
        weight = weight - momentum
    return weight


def tensorflow_momentum(start: np.ndarray) -> np.ndarray:
    """tf.train.MomentumOptimizer(rate, momentum=0.9): ApplyMomentum of the same file."""
    weight, sum_of_gradients = start.copy(), np.zeros_like(start)
    for gradient, rate in zip(GRADIENTS, rates(), strict=True):
        sum_of_gradients = 0.9 * sum_of_gradients + gradient
        weight = weight - rate * sum_of_gradients
    return weight


def train(make: optax.GradientTransformation, config: OptimizerConfig) -> np.ndarray:
    """Return the weight after the same 50 steps with `make(rate)`; the rate is traced."""

    @jax.jit
    def step(params, opt_state, gradient, number):
        rate = learning_rate_at(number, optimizer_numbers(config), config, STEPS_PER_EPOCH)
        updates, opt_state = make(rate).update({"kernel": gradient}, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = {"kernel": jnp.asarray(START, jnp.float32)}
    opt_state = make(0.0).init(params)
    for number, gradient in enumerate(GRADIENTS):
        gradient = jnp.asarray(gradient, jnp.float32)
        params, opt_state = step(params, opt_state, gradient, jnp.int32(number))
    return np.asarray(params["kernel"])


def relative_difference(ours: np.ndarray, reference: np.ndarray) -> float:
    return np.abs(ours - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("rmsprop", tensorflow_rmsprop), ("momentum", tensorflow_momentum)],
)
def test_fifty_steps_are_those_of_tensorflow_1(kind, reference):
    config = OptimizerConfig(kind=kind, weight_decay=0.0)
    ours = train(partial(make_optimizer, config), config)
    assert relative_difference(ours, reference(START)) < 1e-6


def test_optax_default_start_of_zeros_would_fail():
    config = OptimizerConfig(weight_decay=0.0)

    def with_zeros(rate):
        return optax.rmsprop(rate, decay=0.9, eps=1.0, eps_in_sqrt=True, momentum=0.9)

    ours = train(with_zeros, config)
    assert relative_difference(ours, tensorflow_rmsprop(START)) > 1e-2


def rates_of(config: OptimizerConfig, steps: Sequence[int]) -> list[float]:
    """Return the learning rate at some steps, with 100 steps per epoch."""
    numbers = optimizer_numbers(config)
    return [float(learning_rate_at(jnp.int32(s), numbers, config, 100.0)) for s in steps]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.045), (1.99, 0.045), (2, 0.0423), (4, 0.039762)]
)
def test_learning_rate_falls_in_stairs_of_two_epochs(epoch, expected):
    steps = [round(epoch * 100)]
    np.testing.assert_allclose(rates_of(OptimizerConfig(), steps), expected, 1e-6)


def test_learning_rate_follows_the_config():
    config = OptimizerConfig(learning_rate=1.0, decay_rate=0.5, epochs_per_decay=0.02)
    assert rates_of(config, range(6)) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        # It rises towards the scheduled learning rate of each step.
        ("linear", [0.1, 0.325, 0.3, 0.4]),
    ],
)
def test_warm_up_comes_before_the_schedule(kind, expected):
    config = OptimizerConfig(
        learning_rate=1.0,
        decay_rate=0.5,
        epochs_per_decay=0.02,
        warmup=kind,
        warmup_steps=4,
        warmup_rate=0.1,
    )
    assert rates_of(config, range(6)) == pytest.approx([*expected, 0.25, 0.25])


def test_classifier_and_linear_convolutions_may_have_rates_of_their_own():
    ones = {"kernel": jnp.ones(1)}
    params = {
        "block8_1": {
            "Conv2d_1x1": ones,
            "Branch_0": {"Conv2d_1x1": {"conv": ones}},
        },
        "Logits": ones,
    }
    config = OptimizerConfig(
        kind="momentum", weight_decay=0.0, classifier_rate=0.5, linear_rate=0.25
    )
    optimizer = make_optimizer(config, 1.0)
    update = optimizer.update(params, optimizer.init(params), params)[0]
    factors = jax.tree.map(lambda x: -float(x[0]), update)
    assert factors["Logits"]["kernel"] == 0.5
    assert factors["block8_1"]["Conv2d_1x1"]["kernel"] == 0.25
    assert factors["block8_1"]["Branch_0"]["Conv2d_1x1"]["conv"]["kernel"] == 1.0


def test_the_body_may_have_a_rate_of_its_own():
    ones = {"kernel": jnp.ones(1)}
    params = {
        "Stem": {"Conv2d_1a_3x3": {"conv": ones}},
        "block8_1": {"Conv2d_1x1": ones},
        "AuxLogits": {"Conv2d_2a_5x5": {"conv": ones}, "Logits": ones},
        "Logits": ones,
    }
    rates = {"body_rate": 0.125, "linear_rate": 0.5, "classifier_rate": 2.0}
    config = OptimizerConfig(kind="momentum", weight_decay=0.0, **rates)
    optimizer = make_optimizer(config, 1.0)
    update = optimizer.update(params, optimizer.init(params), params)[0]
    factors = jax.tree.map(lambda x: -float(x[0]), update)
    assert factors["Stem"]["Conv2d_1a_3x3"]["conv"]["kernel"] == 0.125
    assert factors["block8_1"]["Conv2d_1x1"]["kernel"] == 0.0625
    assert factors["AuxLogits"]["Conv2d_2a_5x5"]["conv"]["kernel"] == 1.0
    assert factors["AuxLogits"]["Logits"] == factors["Logits"] == {"kernel": 2.0}
    assert trainable_params(params, config) is params
    frozen = replace(config, body_rate=0.0)
    assert trainable_params(params, frozen).keys() == {"AuxLogits", "Logits"}


@pytest.mark.parametrize("kind", ["rmsprop", "momentum"])
def test_traced_numbers_replace_those_of_the_config(kind):
    options = {"momentum": 0.3, "clip_norm": 0.1, "classifier_rate": 0.5}
    meant = OptimizerConfig(kind=kind, **options)
    other = OptimizerConfig(kind=kind, clip_norm=9.0)
    params = {"Logits": {"kernel": jnp.array([3.0, 4.0])}}

    def two_steps(config, *numbers):
        optimizer = make_optimizer(config, 1.0, *numbers)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(params, state, params)
        return updates["Logits"]["kernel"]

    expected = two_steps(meant)
    np.testing.assert_array_equal(two_steps(other, optimizer_numbers(meant)), expected)
    assert not np.allclose(two_steps(other), expected)


def test_no_clipping_is_an_infinite_norm():
    numbers = optimizer_numbers(OptimizerConfig())
    assert np.isinf(numbers.clip_norm)
    assert numbers.warmup_linear == 0
    assert optimizer_numbers(OptimizerConfig(warmup="linear")).warmup_linear == 1


PARAMS = {
    "Conv2d_1a_3x3": {"conv": {"kernel": jnp.array([3.0, 4.0])}},
    "bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    "Logits": {"kernel": jnp.array([[12.0]]), "bias": jnp.ones(1)},
}


def update_without_gradient(**options: object) -> dict:
    """Return the update of `PARAMS` with learning rate 1 and gradients of 0."""
    config = OptimizerConfig(kind="momentum", momentum=0.0, **options)
    optimizer = make_optimizer(config, 1.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    return optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)[0]


def test_weight_decay_touches_kernels_alone():
    update = update_without_gradient(weight_decay=0.5)
    np.testing.assert_allclose(update["Conv2d_1a_3x3"]["conv"]["kernel"], [-1.5, -2.0])
    np.testing.assert_allclose(update["Logits"]["kernel"], [[-6.0]])
    others = jax.tree.leaves((update["bn"], update["Logits"]["bias"]))
    assert all((leaf == 0).all() for leaf in others)


def test_clipping_limits_the_norm_of_all_after_weight_decay():
    # The norm of (3, 4) and 12 together is 13.
    update = update_without_gradient(weight_decay=1.0, clip_norm=1.3)
    kernel = update["Conv2d_1a_3x3"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel, [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(update["Logits"]["kernel"], [[-1.2]], rtol=1e-6)


def test_clipping_leaves_small_gradients_alone():
    update = update_without_gradient(weight_decay=1.0, clip_norm=13.5)
    np.testing.assert_allclose(update["Logits"]["kernel"], [[-12.0]], rtol=1e-6)


@pytest.mark.parametrize(
    # tf.train.ExponentialMovingAverage: min(decay, (1 + num_updates) / (10 + num_updates)).
    ("step", "decay"),
    [(0, 0.1), (8, 0.5), (90, 0.91), (10_000_000, 0.9999)],
)
def test_running_average_of_the_parameters(step, decay):
    average = update_ema(
        {"kernel": jnp.array([1.0, 2.0])},
        {"kernel": jnp.array([11.0, -8.0])},
        jnp.int32(step),
        OptimizerConfig(ema_decay=0.9999),
    )
    expected = decay * np.array([1.0, 2.0]) + (1 - decay) * np.array([11.0, -8.0])
    np.testing.assert_allclose(average["kernel"], expected, rtol=1e-5)
