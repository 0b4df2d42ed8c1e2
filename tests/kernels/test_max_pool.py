# SPDX-License-Identifier: Apache-2.0
"""The max pool and its gathering gradient, against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.kernels.max_pool import max_pool

# Odd, even and minimal sizes, in which the last row or column is read or not.
SIZES = [(3, 3), (3, 4), (4, 3), (7, 7), (8, 9), (9, 8), (17, 6)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_result_and_gradient_equal_those_of_flax(size, dtype):
    """Small integers give windows with equal values, and no rounding."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-3, 4, (2, *size, 3)), dtype)

    def theirs(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")

    expected, pull = jax.vjp(theirs, x)
    dy = jnp.asarray(rng.integers(-8, 9, expected.shape), dtype)
    found, own_pull = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(max_pool(x), expected)
    (dx,), (expected_dx,) = own_pull(dy), pull(dy)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, expected_dx)
    assert np.asarray(dx, np.float32).any()


def test_bfloat16_gradients_are_summed_in_float32():
    """The centre is in four windows. In bfloat16, 257 rounds to 256, and 259 to 260."""
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(1)
    dy = jnp.asarray([[256, 1], [1, 1]], jnp.bfloat16).reshape(1, 2, 2, 1)
    (dx,) = jax.vjp(max_pool, x)[1](dy)
    assert dx[0, 2, 2, 0] == 260


def test_nan_is_propagated():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 1, 1, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(max_pool(x))[0, :, :, 0], [[1, 0], [0, 0]])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_tpus_scatter(platform):
    both = jax.jit(jax.value_and_grad(lambda x: max_pool(x).sum()))
    lowered = both.trace(jnp.zeros((1, 9, 9, 4))).lower(lowering_platforms=(platform,))
    assert ("scatter" in lowered.as_text()) == (platform == "tpu")
    assert ("reduce_window" in lowered.as_text()) == (platform == "tpu")
