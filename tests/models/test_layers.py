# SPDX-License-Identifier: Apache-2.0
"""Branches compute what their figure says, in whatever order they do it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models.layers import Box, Branch, ConvBN, Layer, avg_pool
from tests.models.tiny import random_variables

X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5, 6, 8)), jnp.float32)
POINT, WIDE, STRIDED = Box("0b", 3), Box("0b", 3, (3, 3)), Box("0b", 3, (1, 1), 2)


@pytest.mark.parametrize(
    ("after", "train"),
    [
        (POINT, False),
        (POINT, True),
        (WIDE, False),
        (STRIDED, False),
        ((POINT, WIDE), False),
    ],
)
def test_what_follows_an_average_pool_sees_its_means(after: Layer, train: bool):
    branch = Branch((avg_pool, after))
    variables = random_variables(branch, X)
    run = {"train": train, "mutable": ["batch_stats"]}
    found, _ = branch.apply(variables, X, **run)
    expected = []
    for box in after if isinstance(after, tuple) else (after,):
        alone = {group: tree[box.name] for group, tree in variables.items()}
        module = ConvBN(box.features, box.kernel, box.stride)
        expected.append(module.apply(alone, avg_pool(X), **run)[0])
    expected = jnp.concatenate(expected, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_branch_may_end_with_an_average_pool():
    np.testing.assert_array_equal(Branch((avg_pool,)).apply({}, X), avg_pool(X))


def test_means_are_taken_once_and_of_the_fewer_channels_behind_a_1x1():
    branch = Branch((avg_pool, POINT, Box("0c", 2)))
    program = str(jax.make_jaxpr(branch.apply)(random_variables(branch, X), X))
    assert "f32[2,5,6,3] = reduce_window_sum" in program
    for others in (8, 2):
        assert f"f32[2,5,6,{others}] = reduce_window_sum" not in program
