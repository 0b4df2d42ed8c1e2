# SPDX-License-Identifier: Apache-2.0
"""The fast batch normalisation and its gradient, against Flax's with JAX's gradient."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models.fused import BatchNorm
from inception_jax.models.layers import BN_DECAY, BN_EPSILON

SHAPES = [(3, 5, 4, 6), (7, 6)]
theirs = partial(nn.BatchNorm, momentum=BN_DECAY, epsilon=BN_EPSILON)


def given(shape: tuple[int, ...], dtype=jnp.float32, *, use_scale: bool = True):
    """Return variables with gains of both signs and 0, and an input with a dead channel."""
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal(shape) + 1
    x[..., 1] = 0
    x = jnp.asarray(x, dtype)
    shapes = theirs(use_running_average=False, use_scale=use_scale).init(
        jax.random.key(0), x
    )
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.2, 1, leaf.shape), jnp.float32), shapes
    )
    if use_scale:
        signs = jnp.asarray([1, 1, -1, 1, 0, -1], jnp.float32)
        variables["params"]["scale"] *= signs
        variables["params"]["bias"] *= jnp.asarray([1, -1, 1, -1, 1, -1], jnp.float32)
    return variables, x


def result_and_gradients(module, variables, x, *, relu: bool):
    """Return output, updated averages, and gradients of parameters and input."""
    weights = np.random.default_rng(1).standard_normal(x.shape)

    def loss(params, x):
        y, moved = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        y = nn.relu(y) if relu else y
        return jnp.sum(y.astype(jnp.float32) * weights.astype(jnp.float32)), (y, moved)

    compute = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    gradients, (y, moved) = compute(variables["params"], x)
    return y, moved, *gradients


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_equal_those_of_flax(shape, relu, use_scale, dtype):
    variables, x = given(shape, dtype, use_scale=use_scale)
    fields = {"use_running_average": False, "use_scale": use_scale, "dtype": dtype}
    ours = BatchNorm(**fields, relu=relu)
    assert jax.eval_shape(ours.init, jax.random.key(0), x) == jax.eval_shape(
        theirs(**fields).init, jax.random.key(0), x
    )
    found = result_and_gradients(ours, variables, x, relu=False)
    expected = result_and_gradients(theirs(**fields), variables, x, relu=relu)
    assert found[0].dtype == found[-1].dtype == dtype
    step = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2}[dtype]

    def compare(a, b):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=step, atol=step * np.abs(b).max())

    jax.tree.map(compare, found, expected)
    assert np.abs(np.asarray(found[-1], np.float32)).max() > 0.1


@pytest.mark.parametrize("relu", [False, True])
def test_moving_averages_are_used_as_in_flax(relu):
    variables, x = given(SHAPES[0])
    expected = theirs(use_running_average=True).apply(variables, x)
    found, moved = BatchNorm(use_running_average=True, relu=relu).apply(
        variables, x, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found, nn.relu(expected) if relu else expected, atol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"]
    )


def test_gradients_are_zero_where_the_relu_is_closed():
    """A dead channel stays dead: constant input, no bias."""
    norm = BatchNorm(use_running_average=False, use_scale=False, relu=True)
    x = jnp.zeros((2, 3, 3, 4))
    variables = norm.init(jax.random.key(0), x)

    def loss(params, x):
        y, _ = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(y)

    for gradient in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(variables["params"], x)):
        assert not gradient.any()


@pytest.mark.parametrize("groups", [None, ((0, 1), (2, 3))])
def test_devices_share_statistics_and_their_gradients(groups):
    """The result is that of one device with the whole batch, or with a group's part."""
    variables, x = given((8, 3, 2, 6))
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(x.shape), jnp.float32)

    def gradients(norm, x, weights):
        def loss(x):
            return jnp.sum(norm.apply(variables, x, mutable=["batch_stats"])[0] * weights)

        return jax.grad(loss)(x)

    fields = {"use_running_average": False, "relu": True}
    cut = [a.reshape(4, 2, 3, 2, 6) for a in (x, weights)]
    shared = BatchNorm(**fields, axis_name="data", axis_index_groups=groups)
    found = jax.pmap(
        partial(gradients, shared), axis_name="data", devices=jax.devices()[:4]
    )(*cut)
    size = len(x) if groups is None else 4
    expected = [
        gradients(BatchNorm(**fields), x[i : i + size], weights[i : i + size])
        for i in range(0, len(x), size)
    ]
    np.testing.assert_allclose(found.reshape(x.shape), jnp.concatenate(expected), atol=1e-5)


def test_hessian_vector_products_equal_those_of_flax():
    variables, x = given(SHAPES[0])
    direction = jnp.asarray(np.random.default_rng(2).standard_normal(x.shape), jnp.float32)
    found = []
    for norm in (BatchNorm(use_running_average=False), theirs(use_running_average=False)):

        def loss(x, norm=norm):
            y, _ = norm.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(nn.relu(y)))

        found.append(jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (direction,))[1])(x))
    scale = np.abs(found[1]).max()
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4 * scale)


def test_feature_maps_are_split_before_they_are_cast_to_float32():
    """Otherwise XLA would keep a float32 or joint copy of them for the gradients."""
    norm = BatchNorm(use_running_average=False, use_scale=False, dtype=jnp.bfloat16)
    x = jnp.zeros((2, 3, 3, 6), jnp.bfloat16)

    def maps(x):
        found = norm.normalized(x, None, jnp.zeros(6), (2, 4))
        return [each.y for each in found]

    trace = jax.make_jaxpr(lambda x: jax.vjp(maps, x)[0])(x).jaxpr
    cut = [each.invars[0] for each in trace.eqns if each.primitive.name == "split"]
    assert [array for array in cut if array.aval.ndim == x.ndim] == trace.invars
