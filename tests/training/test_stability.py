# SPDX-License-Identifier: Apache-2.0
"""Limits against eigenvalues of the recursion and against training on a quadratic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import OptimizerConfig
from inception_jax.training.optimizer import make_optimizer
from inception_jax.training.stability import random_stability_limit, stability_limit

DELAYS = (0, 1, 3, 7, 19)
RATE = 0.045
# Gradients of this size do not change RMSProp's mean of squares.
START = 1e-9


def radius(matrix: np.ndarray) -> float:
    """Return the largest modulus of the eigenvalues."""
    return np.abs(np.linalg.eigvals(matrix)).max()


def delayed_update(k: float, momentum: float, delay: int) -> np.ndarray:
    """Return the matrix that updates (rate * v, theta(t), ..., theta(t - delay))."""
    matrix = np.zeros((delay + 2, delay + 2))
    matrix[0, 0], matrix[0, -1] = momentum, k
    matrix[1] = -matrix[0]
    matrix[1, 1] += 1
    matrix[2:, 1:-1] += np.eye(delay)
    return matrix


def replica_update(k: float, momentum: float, replicas: int, worker: int) -> np.ndarray:
    """Return the matrix that updates (rate * v, theta, copy 0, copy 1, ...).

    `worker` takes the gradient at its copy, updates theta and fetches it.
    """
    matrix = np.eye(replicas + 2)
    matrix[0, 0], matrix[0, 2 + worker] = momentum, k
    matrix[1] = matrix[1] - matrix[0]
    matrix[2 + worker] = matrix[1]
    return matrix


def replica_updates(k: float, momentum: float, replicas: int) -> np.ndarray:
    workers = range(replicas)
    return np.array([replica_update(k, momentum, replicas, i) for i in workers])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("delay", [*DELAYS, 200])
def test_the_largest_root_has_modulus_1_at_the_limit(momentum, delay):
    limit = stability_limit(momentum, delay)
    below, at, above = (
        radius(delayed_update(limit * x, momentum, delay)) for x in (0.98, 1, 1.02)
    )
    assert below < 1 - 1e-6
    assert at == pytest.approx(1, abs=1e-9)
    assert above > 1 + 1e-6


def test_replicas_that_take_turns_have_one_delay():
    for replicas in (1, 2, 8):
        limit = stability_limit(0.9, replicas - 1)
        for factor, is_stable in ((0.98, True), (1.02, False)):
            turn = np.eye(replicas + 2)
            for update in replica_updates(factor * limit, 0.9, replicas):
                turn = update @ turn
            assert (radius(turn) < 1) == is_stable


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("replicas", [1, 2, 4, 8, 20, 200])
def test_random_replicas_by_the_mean_of_their_updates(momentum, replicas):
    """Draws are independent, so the mean of the state is multiplied by the mean matrix.

    The copies start equal, so their means stay equal, and one stands for all.
    """
    limit = random_stability_limit(momentum, replicas)

    def growth(k: float) -> float:
        mean = replica_updates(k, momentum, replicas).mean(axis=0)
        return radius(np.c_[mean[:3, :2], mean[:3, 2:].sum(axis=1)])

    below, at, above = (growth(limit * x) for x in (0.98, 1, 1.02))
    assert below < 1 - 1e-6
    assert at == pytest.approx(1, abs=1e-9)
    assert above > 1 + 1e-6


@pytest.mark.parametrize(
    ("momentum", "replicas", "share"), [(0.9, 2, 0.97), (0.9, 8, 0.95), (0.0, 2, 0.21)]
)
def test_the_mean_square_diverges_earlier(momentum, replicas, share):
    """The shares of the limit that the docstring gives."""
    limit = random_stability_limit(momentum, replicas)

    def growth(factor: float) -> float:
        updates = replica_updates(factor * limit, momentum, replicas)
        return radius(np.mean([np.kron(update, update) for update in updates], axis=0))

    assert growth(share - 0.01) < 1 < growth(share + 0.01)


def test_known_limits():
    curvatures = [stability_limit(0.9, delay) / RATE for delay in DELAYS]
    np.testing.assert_allclose(curvatures, [84.44, 2.222, 0.773, 0.350, 0.143], rtol=2e-3)
    assert stability_limit(0.3) == pytest.approx(2.6)
    assert stability_limit(0.0, 1) == pytest.approx(1)  # roots exp(+-i pi / 3)
    assert random_stability_limit(0.9, 1) == stability_limit(0.9)


def amplitudes(config: OptimizerConfig, curvature: jax.Array, delay: int) -> jax.Array:
    """Train on a quadratic from START; return |theta| / START after each update."""
    optimizer = make_optimizer(config, RATE)

    def update(carry, _):
        thetas, state = carry  # newest first
        gradient = {"kernel": curvature * thetas[-1:]}
        updates, state = optimizer.update(gradient, state, {"kernel": thetas[:1]})
        thetas = jnp.concatenate([thetas[:1] + updates["kernel"], thetas[:-1]])
        return (thetas, state), thetas[0]

    start = jnp.full(delay + 1, START), optimizer.init({"kernel": jnp.zeros(1)})
    _, thetas = jax.lax.scan(update, start, None, 20_000)
    return jnp.abs(thetas) / START


# The optimizers, and the factors on the rate that the module's docstring gives.
OPTIMIZERS = {
    "momentum": (OptimizerConfig(kind="momentum", weight_decay=0.0), 1.0),
    # The mean of squares stays near its start, 1, or soon decreases to 0.
    "first updates of rmsprop": (
        OptimizerConfig(weight_decay=0.0, rms_decay=1 - 1e-7),
        0.5**0.5,
    ),
    "later updates of rmsprop": (OptimizerConfig(weight_decay=0.0), 1.0),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("delay", DELAYS)
def test_training_converges_below_and_diverges_above_the_limit(kind, delay):
    config, factor = OPTIMIZERS[kind]
    limit = stability_limit(config.momentum, delay) / (RATE * factor)
    train = jax.jit(partial(amplitudes, config, delay=delay))
    below, above = (np.asarray(train(x * limit)) for x in (0.98, 1.02))
    assert below.max() < 10
    assert below[-1000:].max() < 0.1
    assert np.nanmax(above) > 100  # later gradients are large for RMSProp


@pytest.mark.parametrize("replicas", [2, 8])
def test_the_mean_over_many_seeds(replicas):
    """Replicas drawn at random train on a quadratic, simulated for many seeds at once."""
    rng, seeds, momentum = np.random.default_rng(0), 4000, 0.9
    limit = random_stability_limit(momentum, replicas)
    for factor, grows in ((0.95, False), (1.05, True)):
        theta, v = np.ones(seeds), np.zeros(seeds)
        copies, means = np.ones((seeds, replicas)), []
        for _ in range(1800):
            drawn = np.arange(seeds), rng.integers(replicas, size=seeds)
            v = momentum * v + factor * limit * copies[drawn]
            theta = theta - v
            copies[drawn] = theta
            means.append(theta.mean())
        first, last = (np.abs(part).max() for part in np.split(np.array(means), 3)[::2])
        assert last > 2 * first if grows else last < first / 2


@pytest.mark.parametrize(
    ("limit", "arguments", "message"),
    [
        (stability_limit, (1.0,), r"momentum must be in \[0, 1\), got 1.0"),
        (random_stability_limit, (-0.1, 2), r"momentum must be in \[0, 1\), got -0.1"),
        (stability_limit, (0.9, -1), "delay must be 0 or more updates, got -1"),
        (random_stability_limit, (0.9, 0), "replicas must be 1 or more, got 0"),
    ],
)
def test_arguments_without_a_limit(limit, arguments, message):
    with pytest.raises(ValueError, match=message):
        limit(*arguments)
