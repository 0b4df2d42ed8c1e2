# SPDX-License-Identifier: Apache-2.0
"""Receptive fields, compared with the positions that a NaN in the image reaches."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models.layers import Box, Branches
from inception_jax.models.network import create
from inception_jax.models.receptive_field import Field, after_branches, receptive_fields
from inception_jax.models.reduction_a import ReductionA
from inception_jax.models.residual import ResidualBlock
from inception_jax.models.spec import NetworkSpec, Stage
from inception_jax.models.stem import Stem
from inception_jax.models.zoo import SPECS

NARROW = 75  # the smallest side that all networks accept
PERIOD = 32  # pixels between neighbouring positions of the last feature map


def thin_branches(branches: Branches) -> Branches:
    """Return branches with the same kernels, strides and paddings, but one filter each."""
    return tuple(tuple(map(thin_layer, layers)) for layers in branches)


def thin_layer(layer):
    if isinstance(layer, Box):
        return replace(layer, features=1)
    return tuple(map(thin_layer, layer)) if isinstance(layer, tuple) else layer


def thin(spec: NetworkSpec, repeats: int | None) -> NetworkSpec:
    """Return a network with one filter per layer and at most `repeats` blocks per stage."""

    def stage(one: Stage) -> Stage:
        block = one.module()
        options = {"relu": block.relu} if isinstance(block, ResidualBlock) else {}
        module = partial(type(block), branches=thin_branches(block.branches), **options)
        if isinstance(block, ReductionA):
            module = partial(ReductionA, 1, 1, 1, 1)
        return replace(one, module=module, names=one.names[:repeats])

    steps = tuple(
        (name, thin_branches(step) if isinstance(step, tuple) else thin_layer(step))
        for name, step in spec.stem().steps
    )
    return replace(
        spec,
        stem=partial(Stem, steps=steps),
        stages=tuple(map(stage, spec.stages)),
        final_conv=1 if spec.final_conv else None,
        embedding=None,
    )


def reached(
    spec: NetworkSpec, rows: range, height: int, axis: int
) -> dict[str, np.ndarray]:
    """Return which positions a NaN row (axis 0) or column reaches: [rows, positions]."""
    channels = spec.image_shape[2]
    images = np.zeros((len(rows), height, max(NARROW, spec.min_size), channels), np.float32)
    images[np.arange(len(rows)), list(rows)] = np.nan
    if axis:
        images = images.swapaxes(1, 2)
    network = create(spec, num_classes=0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images[:1])
    variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)

    @jax.jit
    def run(variables, images):
        _, endpoints = network.apply(variables, images)
        maps = {name: x for name, x in endpoints.items() if x.ndim == 4}
        return jax.tree.map(lambda x: jnp.isnan(x).any((2 - axis, 3)), maps)

    return jax.device_get(run(variables, images))


def check(spec: NetworkSpec, height: int, axes: tuple[int, ...] = (0, 1)) -> None:
    """Check every feature map of a network on both sides of each edge of its fields."""
    fields = receptive_fields(spec)
    rows = range(height // 2, height // 2 + PERIOD)
    for axis in axes:
        found = reached(spec, rows, height, axis)
        assert list(found) == sorted(fields)
        for name, nans in found.items():
            field, positions = fields[name], range(nans.shape[1])
            edges = [field.pixels_of(i, i)[axis::2] for i in positions]
            expected = [[low <= row < high for low, high in edges] for row in rows]
            np.testing.assert_array_equal(nans, expected, err_msg=name)
            # A field that is smaller by one on either side would fail.
            assert np.diff(nans, axis=0).any(), name


# One network with every kind of layer, and one of residual blocks.
@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_small"])
def test_a_nan_reaches_the_positions_whose_field_contains_it(name):
    """Each kind of block once, along one axis."""
    check(thin(SPECS[name], 1), 900, axes=(0,))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_a_nan_reaches_the_positions_whose_field_contains_it_at_full_depth(name):
    size = list(receptive_fields(SPECS[name]).values())[-1].size[0]
    check(thin(SPECS[name], None), 2 * size + 200)


def test_fields_equal_those_of_google_s_receptive_field():
    """github.com/google-research/receptive_field: field, effective stride and padding."""
    for name, size, padding in (
        ("inception_v3", 1311, 618),
        ("inception_v4", 2071, 998),
        ("inception_resnet_v2", 3039, 1482),
    ):
        last = list(receptive_fields(SPECS[name]).values())[-1]
        assert last == Field((size, size), (32, 32), (-padding, -padding)), name


def test_fields_computed_by_hand():
    """3x3 of stride 2, 3x3, padded 3x3, then a pool or a 3x3 of stride 2."""
    found = receptive_fields(SPECS["inception_v4"])
    assert found["Conv2d_2b_3x3"] == Field((11, 11), (2, 2), (-2, -2))
    assert found["Mixed_3a"] == Field((15, 15), (4, 4), (-2, -2))
    assert found["Mixed_3a"].pixels_of(0, 10) == (-2, 38, 13, 53)
    flat = after_branches(Field(), ((Box("", 1, (1, 7)),), (Box("", 1, (3, 1)),)))
    assert flat == Field((3, 7), (1, 1), (-1, -3))
    # XLA pads an even kernel by one more at the end.
    even = after_branches(Field(), ((Box("", 1, (2, 4)),),))
    assert even == Field((2, 4), (1, 1), (0, -1))


def test_a_field_that_depends_on_the_size_of_the_image_is_rejected():
    with pytest.raises(
        ValueError, match=r"padding of Conv2d_1a_3x3 of stride 2 depends on"
    ):
        after_branches(Field(), ((Box("1a", 8, (3, 3), 2),),))
