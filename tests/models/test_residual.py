# SPDX-License-Identifier: Apache-2.0
"""The residual scale: its effect on a block, its valid values, and its cost."""

import re
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax import SPECS, Network
from inception_jax.kernels.residual_sum import relu
from inception_jax.models.fused import FUSED
from inception_jax.models.inception_a import InceptionResNetA
from inception_jax.models.inception_b import InceptionResNetB
from inception_jax.models.inception_c import InceptionResNetC
from inception_jax.models.inputs import block_scales
from inception_jax.models.layers import PLAIN
from tests.models.tiny import BLOCKS, GRIDS, random_variables, three_grids

# slim/nets/inception_resnet_v2.py and facenet's inception_resnet_v1.py: 0.17, 0.10 and
# 0.20 on the three grids; the last block of the published networks has 1.
PUBLISHED_SCALES = {
    "inception_v3": (),
    "inception_v4": (),
    "inception_resnet_v1": (0.17,) * 5 + (0.1,) * 10 + (0.2,) * 5,
    "inception_resnet_v2": (0.17,) * 10 + (0.1,) * 20 + (0.2,) * 9 + (1.0,),
    "inception_resnet_v2_paper": (0.17,) * 5 + (0.1,) * 10 + (0.2,) * 5,
    "inception_resnet_v1_facenet": (0.17,) * 5 + (0.1,) * 10 + (0.2,) * 5 + (1.0,),
    "inception_resnet_small": (0.1,) * 10,
}


@cache
def tiny() -> tuple[Network, dict, jax.Array]:
    network = inception_jax.create(three_grids())
    images = jax.random.uniform(jax.random.key(1), (4, 32, 32, 1), minval=-1.0)
    return network, random_variables(network, images), images


COMPILATIONS = []


@cache
def compiled():
    """Return the network as a function of the scale; `COMPILATIONS` records its traces."""
    network, variables, images = tiny()

    def forward(scale):
        COMPILATIONS.append(scale.shape)  # runs only while tracing
        return network.apply(variables, images, scale)

    return jax.jit(forward)


@pytest.mark.parametrize("layers", [PLAIN, FUSED], ids=["plain", "fused"])
@pytest.mark.parametrize("block", [InceptionResNetA, InceptionResNetB, InceptionResNetC])
def test_scale_in_one_block(block, layers):
    block = partial(block, layers=layers)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 16))
    variables = random_variables(block(), x)
    with_relu = jax.jit(block().apply)
    np.testing.assert_array_equal(with_relu(variables, x, 0.0), nn.relu(x))
    linear = jax.jit(block(relu=False).apply)
    np.testing.assert_array_equal(linear(variables, x, 0.0), x)
    residual = linear(variables, x, 1.0) - x
    assert residual.min() < -0.1
    assert residual.max() > 0.1
    np.testing.assert_allclose(
        with_relu(variables, x, 0.3), nn.relu(x + 0.3 * residual), rtol=0, atol=1e-5
    )
    variables["params"]["Conv2d_1x1"]["kernel"] *= 0  # the residual is 0
    np.testing.assert_array_equal(with_relu(variables, x, 0.3), nn.relu(x))


def test_the_relu_keeps_only_its_output_for_the_gradient():
    """XLA rewrites relu(x) > 0 to x > 0, and would then keep both arrays."""
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0])

    def both(x, dy):
        y, pull = jax.vjp(relu, x)
        return y, *pull(dy)

    y, dx = jax.jit(both)(x, jnp.arange(1.0, 6.0))
    np.testing.assert_array_equal(y, [0, 0, 0, jnp.float32(1e-30), 3])
    np.testing.assert_array_equal(dx, [0, 0, 0, 4, 5])
    program = jax.jit(both).lower(x, x).compile().as_text()
    compared = re.findall(r"compare\(%(\w+)", program)
    assert len(compared) == 1
    assert compared[0].startswith("max")


@pytest.mark.parametrize("shape", [(), (3,), (6,)], ids=["one", "per grid", "per block"])
def test_one_compilation_serves_every_value(shape):
    values = (0.0, 0.1, 0.17, 0.3, 1.0)
    logits = [compiled()(jnp.full(shape, value))[0] for value in values]
    assert COMPILATIONS.count(shape) == 1
    assert compiled()._cache_size() == len(COMPILATIONS)
    assert len({float(jnp.sum(x)) for x in logits}) == len(values)


def assert_same(scale: jax.Array, other_scale: jax.Array) -> None:
    """Assert that both give the same endpoints, up to the rounding of two programs."""
    pairs = compiled()(scale), compiled()(other_scale)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *pairs)


@pytest.mark.parametrize("shape", [(3,), (6,)], ids=["per grid", "per block"])
def test_equal_scales_agree_with_one_for_all(shape):
    assert_same(jnp.full(shape, 0.3), jnp.float32(0.3))


def test_per_grid_reaches_the_blocks_of_that_grid():
    per_block = jnp.array([0.1] + [0.5] * 3 + [0.9] * 2)
    assert_same(jnp.array([0.1, 0.5, 0.9]), per_block)


@pytest.mark.parametrize("name", PUBLISHED_SCALES)
def test_published_scales(name):
    assert SPECS[name].default_scales == PUBLISHED_SCALES[name]
    np.testing.assert_array_equal(
        block_scales(SPECS[name], None), np.float32(PUBLISHED_SCALES[name])
    )


def test_published_scales_are_the_default():
    network, variables, images = tiny()
    logits, _ = jax.jit(network.apply)(variables, images)
    published, _ = compiled()(jnp.array([0.17] + [0.1] * 3 + [0.2, 1.0]))
    np.testing.assert_allclose(logits, published, rtol=0, atol=1e-5)


def test_one_value_or_one_per_grid_also_sets_the_last_block():
    spec = SPECS["inception_resnet_v2"]
    np.testing.assert_array_equal(block_scales(spec, 0.3), np.full(40, 0.3, np.float32))
    per_grid = block_scales(spec, jnp.array([0.1, 0.2, 0.3]))
    expected = np.repeat(np.float32([0.1, 0.2, 0.3]), [10, 20, 10])
    np.testing.assert_array_equal(per_grid, expected)


@pytest.mark.parametrize("changed", range(len(BLOCKS)), ids=BLOCKS)
def test_the_scale_of_one_block_changes_only_later_endpoints(changed):
    scale = jnp.full(len(BLOCKS), 0.1)
    _, before = compiled()(scale)
    _, after = compiled()(scale.at[changed].set(0.9))
    differing = {name for name in before if (before[name] != after[name]).any()}
    earlier, later = set(BLOCKS[:changed]), set(BLOCKS[changed:])
    a, b, _ = np.cumsum(GRIDS)
    stem = {"Conv2d_1a_3x3", "Conv2d_2a_2x2"}
    earlier |= stem | ({"Mixed_6a"} if changed >= a else set())
    earlier |= {"PreAuxLogits", "Mixed_7a"} if changed >= b else set()
    assert not differing & earlier
    assert later <= differing
    assert differing | earlier == set(before)


def test_gradient_with_respect_to_the_scale():
    network, variables, images = tiny()

    @jax.jit
    @jax.grad
    def slope(scale):
        return jnp.sum(network.apply(variables, images, scale)[0] ** 2)

    per_block = slope(jnp.full(len(BLOCKS), 0.3))
    assert jnp.isfinite(per_block).all()
    assert (per_block != 0).all()
    above, below = (jnp.sum(compiled()(jnp.float32(s))[0] ** 2) for s in (0.301, 0.299))
    np.testing.assert_allclose(per_block.sum(), (above - below) / 0.002, rtol=0.1)
