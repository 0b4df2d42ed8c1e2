# SPDX-License-Identifier: Apache-2.0
"""The fast layers against the plain ones: outputs, gradients and batch statistics."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.models.fused import FUSED
from inception_jax.models.inception_c import InceptionResNetC
from inception_jax.models.layers import PLAIN, Box, LayerSet, Mixed, avg_pool
from inception_jax.models.residual import ResidualBlock, ResidualOptions
from inception_jax.models.stem import Stem
from inception_jax.models.width import with_width
from inception_jax.models.zoo import SPECS
from inception_jax.weights.folding import fold_variables
from tests.models.tiny import one_block, random_variables, three_grids

SCALE = 0.2
# Bounds on relative errors in the Euclidean norm. In float32 the fast layers are compared
# with the plain ones. In bfloat16 both are compared with the plain ones in float32: where a
# ReLU's input is near 0, rounding decides, and both gradients differ by a few per cent.
FLOAT32 = 1e-4
BFLOAT16 = 2  # times the error of the plain layers


def blocks() -> list[Any]:
    """Return each kind of stem and block of all networks once, with few channels."""
    modules = {}
    for name, published in SPECS.items():
        # With fewer than four filters, the errors of bfloat16 vary too much.
        factor = 1 / 4 if name == "inception_resnet_small" else 1 / 8
        spec = with_width(published, factor)
        stages = [(stage.module, stage.names[0]) for stage in spec.stages]
        for module, first in ((spec.stem, "Stem"), *stages):
            key = repr((module.args, module.keywords))
            modules.setdefault(key, pytest.param(module, id=f"{name}-{first}"))
    return list(modules.values())


def build(module: Any, layers: LayerSet, dtype: Any) -> nn.Module:
    """Return a block made of `layers` that computes in `dtype`."""
    return module(
        layers=replace(
            layers,
            conv=partial(layers.conv, dtype=dtype),
            scaled_conv=partial(layers.scaled_conv, dtype=dtype),
        )
    )


def results(block: nn.Module, variables: dict, x: jax.Array) -> dict[str, Any]:
    """Return output, gradients and batch statistics of a block in training mode."""

    def loss(params: dict, x: jax.Array) -> tuple[jax.Array, tuple]:
        scale = (jnp.float32(SCALE),) if isinstance(block, ResidualBlock) else ()
        y, updated = block.apply(
            {**variables, "params": params}, x, *scale, train=True, mutable=["batch_stats"]
        )
        y = (y[0] if isinstance(y, tuple) else y).astype(jnp.float32)
        return jnp.mean(jnp.sin(3 * y)), (y, updated)

    (params, x), (y, updated) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], x
    )
    return {"output": y, "by params": params, "by input": x, "statistics": updated}


def errors(actual: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """Return the relative error of each result in the Euclidean norm."""
    return {
        name: float(
            jnp.sqrt(square_norm(jax.tree.map(jnp.subtract, actual[name], tree)))
            / jnp.sqrt(square_norm(tree))
        )
        for name, tree in exact.items()
    }


def square_norm(tree: Any) -> jax.Array:
    return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("module", blocks())
def test_fast_and_plain_blocks_agree(module):
    is_stem = isinstance(module(), Stem)
    x = np.random.default_rng(1).uniform(
        -1, 1, (4, 39, 39, 3) if is_stem else (4, 7, 7, 24)
    )
    x = jnp.asarray(x, jnp.float32)
    variables = random_variables(build(module, PLAIN, jnp.float32), x)

    @jax.jit
    def both(variables: dict, x: jax.Array) -> list[Any]:
        return [
            results(build(module, layers, dtype), variables, x.astype(dtype))
            for dtype in (jnp.float32, jnp.bfloat16)
            for layers in (FUSED, PLAIN)
        ]

    fast, plain, fast_16, plain_16 = both(variables, x)
    for one, other in ((fast, plain), (fast_16, plain_16)):
        assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, other)
        assert [x.dtype for x in jax.tree.leaves(one)] == [
            x.dtype for x in jax.tree.leaves(other)
        ]
    assert max(errors(fast, plain).values()) < FLOAT32
    own, reference = errors(fast_16, plain), errors(plain_16, plain)
    assert all(own[name] < BFLOAT16 * reference[name] for name in own), (own, reference)


def network_results(network: inception_jax.Network, variables: dict) -> dict[str, Any]:
    """Return the loss, logits, gradients and batch statistics of a training step."""
    images = jax.random.uniform(jax.random.key(1), (4, 32, 32, 1), minval=-1.0)

    def loss(params: dict) -> tuple[jax.Array, tuple]:
        (logits, _), updated = network.apply(
            {**variables, "params": params},
            images,
            0.5,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0]), (logits, updated)

    (value, (logits, updated)), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables["params"]
    )
    return {"loss": value, "logits": logits, "grads": gradients, "statistics": updated}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": ResidualOptions("channel", 0.5, norm=True, activation="leaky_relu")},
        {"residual": ResidualOptions("scalar", 2.0, activation="pre"), "final_conv": 6},
        {
            "residual": ResidualOptions(shortcut=False),
            "final_conv": 6,
            "pool_norm": "after_relu",
        },
    ],
    ids=["paper", "norm", "pre", "no shortcut"],
)
def test_fast_and_plain_networks_agree(changes):
    fast = inception_jax.create(three_grids(**changes), dropout_rate=0.0)
    plain = fast.clone(fast=False)
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    assert jax.eval_shape(fast.init, jax.random.key(0), images) == jax.eval_shape(
        plain.init, jax.random.key(0), images
    )
    variables = random_variables(fast, jnp.zeros((1, 32, 32, 1)))
    actual, exact = jax.jit(
        lambda variables: [network_results(n, variables) for n in (fast, plain)]
    )(variables)
    assert max(errors(actual, exact).values()) < FLOAT32


def test_frozen_and_folded_networks_agree():
    fast = inception_jax.create(three_grids(), bn_frozen=True, dropout_rate=0.0)
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 1), minval=-1.0)
    variables = random_variables(fast, images)
    for options in ({"train": True, "mutable": ["batch_stats"]}, {}):
        actual, exact = (
            network.apply(variables, images, **options)
            for network in (fast, fast.clone(fast=False))
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            actual,
            exact,
        )
    spec = three_grids()
    folded = fold_variables(spec, variables)
    networks = [
        inception_jax.create(spec, folded=True, fast=fast) for fast in (True, False)
    ]
    actual, exact = (network.apply(folded, images)[0] for network in networks)
    np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5)


def test_forward_mode_needs_the_plain_layers():
    fast = inception_jax.create(one_block(), dropout_rate=0.0)
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1), minval=-1.0)
    variables = random_variables(fast, x)

    def logits(network, x):
        return network.apply(variables, x, train=True, mutable=["batch_stats"])[0][0]

    direction = jax.random.normal(jax.random.key(2), x.shape)
    weights = jax.random.normal(jax.random.key(3), (4, 10))
    value, slope = jax.jvp(partial(logits, fast.clone(fast=False)), (x,), (direction,))
    expected, pull = jax.vjp(partial(logits, fast), x)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        jnp.vdot(weights, slope), jnp.vdot(pull(weights)[0], direction), rtol=1e-4
    )
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(partial(logits, fast), (x,), (direction,))


def test_an_average_pool_is_computed_after_a_1x1_convolution_only_if_fused():
    branches, x = ((avg_pool, Box("0b", 3)),), jnp.zeros((1, 5, 6, 8))
    for layers, channels in ((PLAIN, 8), (FUSED, 3)):
        mixed = Mixed(branches, layers)
        trace = str(jax.make_jaxpr(mixed.apply)(random_variables(mixed, x), x))
        assert f"f32[1,5,6,{channels}] = reduce_window_sum" in trace


def test_residuals_are_added_as_matrices_only_if_fused():
    x = jnp.zeros((2, 3, 3, 16))
    for layers, shape in ((PLAIN, "2,3,3,16"), (FUSED, "18,16")):
        block = InceptionResNetC(layers=layers)
        trace = str(jax.make_jaxpr(block.apply)(random_variables(block, x), x))
        sums = re.findall(r"f32\[([\d,]*)\] = add(?:_any)? \w+ \w+\n", trace)
        assert sums[-1] == shape
