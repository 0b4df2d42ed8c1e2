# SPDX-License-Identifier: Apache-2.0
"""The max pool and its gathering gradient, against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.kernels.max_pool import max_pool

# Odd, even and least sizes: all rows and columns are read, or the last is not.
SIZES = [(3, 3), (3, 4), (4, 3), (7, 7), (8, 9), (9, 8), (17, 6)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_flax_s_with_the_same_gradient(size, dtype):
    """Of small whole numbers, so that windows have equal values, and rounding none."""
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


def test_gradients_of_half_precision_are_added_in_full():
    """The middle is in four windows; 256 + 1 is 256 in bfloat16, and 259 is 260."""
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(1)
    dy = jnp.asarray([[256, 1], [1, 1]], jnp.bfloat16).reshape(1, 2, 2, 1)
    (dx,) = jax.vjp(max_pool, x)[1](dy)
    assert dx[0, 2, 2, 0] == 260


def test_not_a_number_is_not_hidden():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 1, 1, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(max_pool(x))[0, :, :, 0], [[1, 0], [0, 0]])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_tpu_alone_scatters(platform):
    both = jax.jit(jax.value_and_grad(lambda x: max_pool(x).sum()))
    lowered = both.trace(jnp.zeros((1, 9, 9, 4))).lower(lowering_platforms=(platform,))
    assert ("scatter" in lowered.as_text()) == (platform == "tpu")
    assert ("reduce_window" in lowered.as_text()) == (platform == "tpu")
