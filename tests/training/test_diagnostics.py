# SPDX-License-Identifier: Apache-2.0
"""Each signal alone, on made-up arrays."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.training.diagnostics import (
    classifier_curvature,
    count_spikes,
    dead_channels,
    dead_images,
    ema_gap,
    feature_norm2,
    function_change,
    group_norms,
    mean,
    residual_ratio,
    rms,
    tiny_channels,
    update_ratios,
)
from inception_jax.training.losses import cross_entropy
from tests.models.tiny import BLOCKS, three_grids


def close(result: Any, expected: Any, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=1e-6)


RNG = np.random.default_rng(0)
MADE_UP = np.zeros((3, 2, 2, 4), np.float32)
MADE_UP[0, 1, 0, 1], MADE_UP[1, 0, 1, 1] = -4.0, 2.0
MADE_UP[1, 1, 1, 2] = 1e-6


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        # Channels 0 and 3 and the last image are zero; channel 2 is nearly zero.
        (MADE_UP, (2 / 4, 3 / 4, 1 / 3)),
        (np.zeros_like(MADE_UP), (1, 1, 1)),
        (np.ones_like(MADE_UP), (0, 0, 0)),
        (-np.abs(MADE_UP), (2 / 4, 3 / 4, 1 / 3)),
        (MADE_UP[..., 1:2], (0, 0, 1 / 3)),
        (MADE_UP[..., :1], (1, 1, 1)),
        (MADE_UP * 1e-6, (2 / 4, 3 / 4, 1 / 3)),  # independent of the scale
        # A NaN is not zero.
        (MADE_UP + np.array([0, 0, 0, np.nan], np.float32), (1 / 4, 1 / 4, 0)),
        (np.full_like(MADE_UP, np.nan), (0, 0, 0)),
    ],
)
def test_dead_and_tiny_channels_and_dead_images(x, expected):
    signals = (dead_channels, tiny_channels, dead_images)
    result = [signal(jnp.asarray(x)) for signal in signals]
    close(result, expected)


def test_tiny_is_below_a_thousandth():
    x = np.ones((1, 1, 1, 100), np.float32)
    x[..., 0], x[..., 1] = 0.0009, 0.0011
    close(tiny_channels(jnp.asarray(x)), 1 / 100)


def test_sizes():
    x = jnp.array([[3.0, -4.0], [0.0, 1.0]])
    close(rms(x), np.sqrt(26 / 4))
    close(mean(x), 0)
    close(feature_norm2(x), (25 + 1) / 2)
    assert np.isnan(rms(x.at[0, 0].set(jnp.nan)))
    # The result is not rounded to bfloat16.
    assert float(mean(jnp.array([255, 256], jnp.bfloat16))) == 255.5
    close(rms(jnp.array([255, 256], jnp.bfloat16)), np.sqrt((255**2 + 256**2) / 2))
    close(function_change(np.ones((2, 3), np.float32), np.full((2, 3), 3, np.float32)), 2)


def test_residual_by_stream():
    stream = jnp.full((2, 3, 3, 5), 2.0)
    close(residual_ratio(-0.5 * stream, stream), 0.5)
    assert residual_ratio(stream, 0 * stream) == np.inf
    assert np.isnan(residual_ratio(0 * stream, 0 * stream))


@jax.jit
def both_curvatures(spread: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the signal, and the Hessian that JAX computes by differentiating twice."""
    keys = jax.random.split(jax.random.key(1), 4)
    features = jax.nn.relu(jax.random.normal(keys[0], (30, 5)))
    classifier = spread * jax.random.normal(keys[1], (6, 4))
    labels = jax.random.randint(keys[2], (30,), 0, 4)

    def logits(flat: jax.Array) -> jax.Array:
        return features @ flat[:20].reshape(5, 4) + flat[None, 20:]

    def loss(flat: jax.Array) -> jax.Array:
        return jnp.mean(cross_entropy(logits(flat), labels))

    flat = classifier.ravel()
    return classifier_curvature(features, logits(flat)), jax.hessian(loss)(flat)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 5.0])
def test_curvature_is_the_largest_eigenvalue_of_the_hessian(spread):
    """For uniform and for peaked probabilities."""
    result, hessian = both_curvatures(spread)
    close(result, np.linalg.eigvalsh(hessian)[-1], rtol=1e-2)


def test_curvature_of_zero():
    features = jnp.ones((3, 2))
    certain = 1e4 * jnp.eye(3)
    assert classifier_curvature(features, certain) == 0
    assert np.isnan(classifier_curvature(features, certain.at[0, 0].set(jnp.nan)))
    assert classifier_curvature(features, jnp.zeros((3, 1))) == 0  # one class


@cache
def grown() -> tuple[dict, dict[str, list[np.ndarray]]]:
    """Return parameters of a network with reductions, and their leaves by group."""
    network = inception_jax.create(three_grids(final_conv=5))
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), params)
    leaves = {
        "stem": jax.tree.leaves(params["Stem"]),
        "branches": [
            x
            for block in BLOCKS
            for branch in params[block]
            if "Branch" in branch
            for x in jax.tree.leaves(params[block][branch])
        ],
        "linear": [
            params[block]["Conv2d_1x1"][name]
            for block in BLOCKS
            for name in ("kernel", "bias")
        ],
        "other": jax.tree.leaves(
            [params[name] for name in ("Mixed_6a", "Mixed_7a", "Conv2d_7b_1x1")]
        ),
        "classifier": [params["Logits"]["kernel"], params["Logits"]["bias"]],
    }
    assert sum(map(len, leaves.values())) == len(jax.tree.leaves(params))
    return params, leaves


def norm(leaves: list[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate([x.ravel() for x in leaves])))


def test_norms_by_group():
    params, leaves = grown()
    result = group_norms(params)
    assert list(result) == list(leaves)
    jax.tree.map(close, result, {group: norm(each) for group, each in leaves.items()})


def test_a_learned_scale_belongs_to_the_linear_layer():
    block = {"Branch_0": {"w": jnp.ones(1)}, "Conv2d_1x1": {"kernel": jnp.full(1, 3.0)}}
    result = group_norms({"block8_1": block | {"learned_scale": jnp.array(4.0)}})
    assert result == {"branches": 1, "linear": 5}


def test_groups_of_a_network_without_residuals():
    network = inception_jax.create("inception_v4", aux_head=True)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    assert set(jax.eval_shape(group_norms, shapes)) == {"stem", "other", "classifier"}


def test_updates_by_weights():
    params, leaves = grown()
    moved = jax.tree.map(np.copy, params)
    moved["Logits"]["bias"] += 2.0
    moved["block8_1"]["Conv2d_1x1"]["kernel"] *= 1.5
    result = update_ratios(params, moved)
    half = 0.5 * params["block8_1"]["Conv2d_1x1"]["kernel"]
    expected = dict.fromkeys(leaves, 0.0) | {
        "classifier": np.sqrt(10 * 2.0**2) / norm(leaves["classifier"]),
        "linear": norm([half]) / norm(leaves["linear"]),
    }
    jax.tree.map(close, result, expected)


def test_averaged_from_raw_weights():
    raw = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    assert ema_gap(raw, raw) == 0
    ema = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([[4.0]])}
    close(ema_gap(ema, raw), 1 / 5)


FLAT = [1.0] * 10


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0),
        (FLAT, 0),
        ([9.0], 0),  # there is nothing before it
        ([np.nan], 1),
        ([1.0, 2.0, 2.0], 0),
        ([1.0, 2.1], 1),
        ([*FLAT, 3.0, *FLAT, 5.0], 2),
        ([*FLAT, 3.0, 5.0, 4.0, *FLAT], 1),
        ([*FLAT, np.nan, *FLAT, np.inf], 2),
        ([*FLAT, *[np.nan] * 50], 1),
        # The same loss is a spike after low losses, but not after high ones.
        ([*FLAT, *[3.0] * 30, 3.5], 1),
        ([4.0] * 20 + [1.0] * 11 + [3.0], 1),
    ],
)
def test_spikes(losses, expected):
    assert count_spikes(losses) == expected
