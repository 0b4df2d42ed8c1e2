# SPDX-License-Identifier: Apache-2.0
"""Recomputing blocks in the backward pass gives the same update from fewer arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.models.network import Network
from tests.models.tiny import random_variables, three_grids

IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 1))


def loss(network: Network, params: dict, batch_stats: dict) -> tuple[jax.Array, Any]:
    (logits, _), changed = network.apply(
        {"params": params, "batch_stats": batch_stats},
        IMAGES,
        jnp.float32(0.3),
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": jax.random.key(0)},
    )
    return jnp.mean(jnp.square(logits)), changed


@pytest.fixture(scope="module")
def network() -> Network:
    """A network with all kinds of residual blocks and reductions."""
    return inception_jax.create(three_grids(), num_classes=5, dropout_rate=0.2)


@pytest.fixture(scope="module")
def variables(network: Network) -> dict:
    return random_variables(network, IMAGES[:1])


def test_the_update_is_the_same(network, variables):
    """So are the moving averages and the sown values."""

    @jax.jit
    def both(params: dict, batch_stats: dict) -> list:
        return [
            jax.value_and_grad(loss, argnums=1, has_aux=True)(
                network.clone(remat=remat), params, batch_stats
            )
            for remat in (False, True)
        ]

    plain, again = both(variables["params"], variables["batch_stats"])
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def kept(network: Network, variables: dict) -> int:
    """Return how many numbers of the forward pass the gradient needs, except parameters."""
    shapes = jax.eval_shape(
        lambda params: jax.vjp(
            lambda p: loss(network, p, variables["batch_stats"])[0], params
        )[1],
        variables["params"],
    )
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return found - sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_fewer_numbers_are_kept_for_the_backward_pass(network, variables):
    before, after = (kept(network.clone(remat=remat), variables) for remat in (False, True))
    assert 0 < after < before / 3


def test_parameters_and_inference_do_not_change(network):
    again = network.clone(remat=True)
    shapes = [
        jax.eval_shape(net.init, jax.random.key(0), IMAGES) for net in (network, again)
    ]
    assert shapes[0] == shapes[1]
    traces = [str(jax.make_jaxpr(net.apply)(shapes[0], IMAGES)) for net in (network, again)]
    assert traces[0] == traces[1]
