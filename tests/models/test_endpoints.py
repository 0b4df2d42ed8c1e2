# SPDX-License-Identifier: Apache-2.0
"""Name and shape of every endpoint, at several image sizes, against a table of strides."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import inception_jax
from inception_jax import Network

# How a layer changes height and width.
KEEP = "padded, stride 1"
TRIM = "3x3 unpadded, stride 1"
HALVE = "3x3 unpadded, stride 2"
CHANGES = {
    KEEP: lambda n: n,
    TRIM: lambda n: n - 2,
    HALVE: lambda n: (n - 3) // 2 + 1,
}

# (endpoints, channels, change of the first of them; the others keep the size).
# Names: slim's end_points of inception_v3.py, inception_v4.py and inception_resnet_v2.py,
# facenet's of inception_resnet_v1.py. Channels: Figs 3 to 19 of arXiv 1602.07261 and slim.
OPENING = (
    ("Conv2d_1a_3x3", 32, HALVE),
    ("Conv2d_2a_3x3", 32, TRIM),
    ("Conv2d_2b_3x3", 64, KEEP),
)
FIG_3 = (
    *OPENING,
    ("Mixed_3a", 160, HALVE),
    ("Mixed_4a", 192, TRIM),
    ("Mixed_5a", 384, HALVE),
)
FIG_14_BEGINNING = (
    *OPENING,
    ("MaxPool_3a_3x3", 64, HALVE),
    ("Conv2d_3b_1x1", 80, KEEP),
    ("Conv2d_4a_3x3", 192, TRIM),
)
FIG_14 = (*FIG_14_BEGINNING, ("Conv2d_4b_3x3", 256, HALVE))


def blocks(prefix: str, count: int) -> str:
    return " ".join(f"{prefix}_{i}" for i in range(1, count + 1))


GRIDS = {
    "inception_v3": (
        *FIG_14_BEGINNING,
        ("MaxPool_5a_3x3", 192, HALVE),
        ("Mixed_5b", 256, KEEP),
        ("Mixed_5c Mixed_5d", 288, KEEP),
        ("Mixed_6a", 768, HALVE),
        ("Mixed_6b Mixed_6c Mixed_6d Mixed_6e PreAuxLogits", 768, KEEP),
        ("Mixed_7a", 1280, HALVE),
        ("Mixed_7b Mixed_7c", 2048, KEEP),
    ),
    "inception_v4": (
        *FIG_3,
        ("Mixed_5b Mixed_5c Mixed_5d Mixed_5e", 384, KEEP),
        ("Mixed_6a", 1024, HALVE),
        ("Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_6f Mixed_6g Mixed_6h", 1024, KEEP),
        ("PreAuxLogits", 1024, KEEP),
        ("Mixed_7a", 1536, HALVE),
        ("Mixed_7b Mixed_7c Mixed_7d", 1536, KEEP),
    ),
    "inception_resnet_v1": (
        *FIG_14,
        (blocks("block35", 5), 256, KEEP),
        ("Mixed_6a", 896, HALVE),
        (blocks("block17", 10) + " PreAuxLogits", 896, KEEP),
        ("Mixed_7a", 1792, HALVE),
        (blocks("block8", 5), 1792, KEEP),
    ),
    "inception_resnet_v2": (
        *FIG_14_BEGINNING,
        ("MaxPool_5a_3x3", 192, HALVE),
        ("Mixed_5b " + blocks("block35", 10), 320, KEEP),
        ("Mixed_6a", 1088, HALVE),
        (blocks("block17", 20) + " PreAuxLogits", 1088, KEEP),
        ("Mixed_7a", 2080, HALVE),
        (blocks("block8", 9) + " Block8", 2080, KEEP),
        ("Conv2d_7b_1x1", 1536, KEEP),
    ),
    "inception_resnet_v2_paper": (
        *FIG_3,
        (blocks("block35", 5), 384, KEEP),
        ("Mixed_6a", 1152, HALVE),
        (blocks("block17", 10) + " PreAuxLogits", 1152, KEEP),
        ("Mixed_7a", 2144, HALVE),
        (blocks("block8", 5), 2144, KEEP),
    ),
    "inception_resnet_v1_facenet": (
        *FIG_14,
        (blocks("block35", 5), 256, KEEP),
        ("Mixed_6a", 896, HALVE),
        (blocks("block17", 10) + " PreAuxLogits", 896, KEEP),
        ("Mixed_7a", 1792, HALVE),
        (blocks("block8", 5) + " Block8", 1792, KEEP),
    ),
}


def paper_head(channels: int) -> dict[str, tuple[int, ...]]:
    pooled = {"global_pool": (channels,), "PreLogitsFlatten": (channels,)}
    return pooled | {"Logits": (1000,), "Predictions": (1000,)}


HEADS = {
    "inception_v3": paper_head(2048),
    "inception_v4": paper_head(1536),
    "inception_resnet_v1": paper_head(1792),
    "inception_resnet_v2": paper_head(1536),
    "inception_resnet_v2_paper": paper_head(2144),
    "inception_resnet_v1_facenet": {
        **{"global_pool": (1792,), "PreLogitsFlatten": (1792,)},
        **{"Bottleneck": (512,), "Embeddings": (512,)},
    },
}

# Distinct shapes at 299x299 in order of appearance. Sources: Figs 9 and 15, for
# inception_resnet_v2 slim's own network, run with tf_slim 1.1.0, and for inception_v3 the
# comments in slim's inception_v3.py.
AT_299 = {
    "inception_v3": (
        "149x149x32 147x147x32 147x147x64 73x73x64 73x73x80 71x71x192 35x35x192 "
        "35x35x256 35x35x288 17x17x768 8x8x1280 8x8x2048"
    ),
    "inception_v4": (
        "149x149x32 147x147x32 147x147x64 73x73x160 71x71x192 35x35x384 17x17x1024 8x8x1536"
    ),
    "inception_resnet_v1": (
        "149x149x32 147x147x32 147x147x64 73x73x64 73x73x80 71x71x192 35x35x256 "
        "17x17x896 8x8x1792"
    ),
    "inception_resnet_v2": (
        "149x149x32 147x147x32 147x147x64 73x73x64 73x73x80 71x71x192 35x35x192 "
        "35x35x320 17x17x1088 8x8x2080 8x8x1536"
    ),
    "inception_resnet_v2_paper": (
        "149x149x32 147x147x32 147x147x64 73x73x160 71x71x192 35x35x384 17x17x1152 8x8x2144"
    ),
}
AT_299["inception_resnet_v1_facenet"] = AT_299["inception_resnet_v1"]


def expected_shapes(name: str, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for names, channels, change in GRIDS[name]:
        size = tuple(CHANGES[change](n) for n in size)
        shapes |= dict.fromkeys(names.split(), (*size, channels))
    return shapes | {"PrePool": (*size, channels)} | HEADS[name]


@cache
def traced_at_299(name: str) -> tuple[Network, Any, dict]:
    network = inception_jax.create(name)
    channels = network.spec.image_shape[2]
    images = jax.ShapeDtypeStruct((3, 299, 299, channels), jnp.float32)
    result = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    return network, *result


def endpoint_shapes(name: str, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes without the batch axis, whose size is checked."""
    network, result, variables = traced_at_299(name)
    if size != (299, 299):
        images = jax.ShapeDtypeStruct((3, *size, network.spec.image_shape[2]), jnp.float32)
        result = jax.eval_shape(network.apply, variables, images)
    output, endpoints = result
    last = "Logits" if network.num_classes else "Embeddings"
    assert output.shape == endpoints[last].shape
    assert all(x.shape[0] == 3 for x in endpoints.values())
    return {name: x.shape[1:] for name, x in endpoints.items()}


SIZES = [(299, 299), (139, 203)]
MORE = [pytest.param(size, marks=pytest.mark.slow) for size in ((150, 150), (75, 75))]


@pytest.mark.parametrize("size", [*SIZES, *MORE])
@pytest.mark.parametrize("name", GRIDS)
def test_every_endpoint(name, size):
    assert endpoint_shapes(name, size) == expected_shapes(name, size)


@pytest.mark.parametrize("name", GRIDS)
def test_the_table_gives_the_published_shapes_at_299(name):
    shapes = [shape for shape in expected_shapes(name, (299, 299)).values() if shape[2:]]
    distinct = dict.fromkeys("x".join(map(str, shape)) for shape in shapes)
    assert list(distinct) == AT_299[name].split()


@pytest.mark.parametrize("name", GRIDS)
def test_aux_head_reads_the_last_17x17_feature_map(name):
    names = " ".join(names for names, _, _ in GRIDS[name]).split()
    last = names[names.index("PreAuxLogits") - 1]
    assert inception_jax.SPECS[name].aux_after == last


@pytest.mark.parametrize("name", GRIDS)
def test_75_pixels_leave_one_position_and_fewer_none(name):
    last_map = GRIDS[name][-1][0].split()[-1]
    assert expected_shapes(name, (75, 75))[last_map][:2] == (1, 1)
    assert expected_shapes(name, (74, 74))[last_map][:2] == (0, 0)


@pytest.mark.parametrize(
    ("size", "grid"), [((8, 8), (4, 4)), ((11, 17), (5, 8)), ((64, 64), (32, 32))]
)
def test_small_network(size, grid):
    """Its stem pads the first convolution and halves the grid with the second."""
    maps = {"Conv2d_1a_3x3": (*size, 32), "Conv2d_2a_2x2": (*grid, 256)}
    maps |= dict.fromkeys([*blocks("block8", 10).split(), "PrePool"], (*grid, 256))
    head = {"global_pool": (256,), "PreLogitsFlatten": (256,)}
    head |= {"Logits": (10,), "Predictions": (10,)}
    assert endpoint_shapes("inception_resnet_small", size) == maps | head


def test_small_network_with_other_sizes():
    spec = inception_jax.small_image_spec(
        width=24, depth=3, branch_width=4, image_shape=(32, 32, 3)
    )
    network = inception_jax.create(spec, num_classes=7)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    (logits, endpoints), _ = jax.eval_shape(
        network.init_with_output, jax.random.key(0), images
    )
    assert logits.shape == (2, 7)
    assert endpoints["block8_3"].shape == (2, 16, 16, 24)
    assert "block8_4" not in endpoints


def test_all_networks_are_covered():
    assert {*GRIDS, "inception_resnet_small"} == set(inception_jax.list_networks())
