# SPDX-License-Identifier: Apache-2.0
"""The fast branches compute what their figure shows, in another order."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models.fused import FUSED, BatchNorm, Branch, ConvBN
from inception_jax.models.layers import Box, Layer, Mixed, avg_pool, frozen
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
def test_layers_after_an_average_pool_read_its_output(after: Layer, train: bool):
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


def test_the_average_is_computed_once_and_after_the_1x1():
    branch = Branch((avg_pool, POINT, Box("0c", 2)))
    program = str(jax.make_jaxpr(branch.apply)(random_variables(branch, X), X))
    assert "f32[2,5,6,3] = reduce_window_sum" in program
    for others in (8, 2):
        assert f"f32[2,5,6,{others}] = reduce_window_sum" not in program


# Branches that begin with a 1x1 convolution, at the ends and between others.
SIBLINGS = (
    (Box("0a", 3), Box("0b", 2, (3, 3))),
    (Box("1a", 4, (3, 3)),),
    (avg_pool, Box("0b", 5), Box("0c", 4, (3, 3))),
    (avg_pool,),
    (Box("", 6),),
)


@pytest.mark.parametrize("train", [False, True])
def test_branches_computed_together_equal_branches_computed_alone(train):
    mixed = Mixed(SIBLINGS, FUSED)
    variables = random_variables(mixed, X)

    def together(params, x):
        given = {**variables, "params": params}
        return mixed.apply(given, x, train=train, mutable=["batch_stats"])

    def alone(params, x):
        given = {**variables, "params": params}
        parts, stats = [], {}
        for i, layers in enumerate(SIBLINGS):
            own = {group: tree.get(f"Branch_{i}", {}) for group, tree in given.items()}
            part, updated = Branch(layers).apply(
                own, x, train=train, mutable=["batch_stats"]
            )
            parts.append(part)
            stats |= {f"Branch_{i}": tree for tree in updated.values() if tree}
        return jnp.concatenate(parts, axis=-1), {"batch_stats": stats}

    def gradients(function, params, x):
        def loss(params, x):
            y, stats = function(params, x)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    found, expected = (
        jax.jit(lambda p, x, f=f: gradients(f, p, x))(variables["params"], X)
        for f in (together, alone)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_siblings_with_frozen_batch_norm_compute_as_in_evaluation():
    with_frozen_norm = Mixed(
        SIBLINGS, replace(FUSED, conv=partial(ConvBN, norm=frozen(BatchNorm)))
    )
    variables = random_variables(with_frozen_norm, X)
    found, moved = with_frozen_norm.apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, Mixed(SIBLINGS, FUSED).apply(variables, X), atol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"]
    )


def test_sibling_1x1_convolutions_are_one_multiplication_in_training():
    mixed = Mixed(SIBLINGS, FUSED)
    variables = random_variables(mixed, X)
    kernel = variables["params"]["Branch_4"]["Conv2d_1x1"]["conv"]["kernel"]
    assert kernel.shape == (1, 1, 8, 6)
    for train, products in ((True, ["14"]), (False, ["3", "5", "6"])):
        apply = partial(mixed.apply, train=train, mutable=["batch_stats"])
        program = str(jax.make_jaxpr(apply)(variables, X))
        found = re.findall(r"f32\[2,5,6,(\d+)\] = dot_general", program)
        assert (found, program.count("dot_general")) == (products, len(products))
