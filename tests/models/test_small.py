# SPDX-License-Identifier: Apache-2.0
"""The networks of the instability study: widths, heads, cost, and the initialisers."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

import inception_jax
from inception_jax import paper_width_spec, small_image_spec
from inception_jax.models.spec import INITIALIZERS
from inception_jax.models.summary import Summary, summarise


def shapes_of(spec: inception_jax.NetworkSpec) -> tuple[dict, dict]:
    """Return the shapes of endpoints, without the batch, and of parameters."""
    network = inception_jax.create(spec)
    images = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    (_, endpoints), variables = jax.eval_shape(
        network.init_with_output, jax.random.key(0), images
    )
    maps = {name: x.shape[1:] for name, x in endpoints.items()}
    return maps, jax.tree.map(lambda x: x.shape, variables["params"])


def sizes(**changes: object) -> Summary:
    return summarise(inception_jax.create(small_image_spec(**changes)))


def filters(params: dict) -> list[int]:
    """Return the numbers of filters of a block, branch by branch."""
    branches = [params[name] for name in sorted(params) if name.startswith("Branch")]
    return [b[name]["conv"]["kernel"][-1] for b in branches for name in sorted(b)]


@pytest.mark.parametrize(
    ("block", "branch_width", "expected"),
    [
        ("v1", 16, [16, 16, 16, 16]),
        ("v1", 192, [192, 192, 192, 192]),  # Fig. 13
        ("v2", 192, [192, 192, 224, 256]),  # Fig. 19
        ("v2", 16, [16, 16, 19, 21]),
        ("plain", 16, [16, 16, 16, 16]),
    ],
)
def test_branches(block, branch_width, expected):
    spec = small_image_spec(24, 2, branch_width, block=block)
    _, params = shapes_of(spec)
    assert filters(params["block8_2"]) == expected
    assert params["block8_2"]["Conv2d_1x1"]["kernel"][-1] == 24
    assert spec.residual.shortcut == (block != "plain")
    assert spec.default_scales == ((1.0, 1.0) if block == "plain" else (0.1, 0.1))


def test_the_default_small_network_has_not_changed():
    """The numbers were counted before blocks and heads were options."""
    figures = sizes()
    assert figures == summarise(inception_jax.create("inception_resnet_small"))
    assert (figures.params, figures.macs) == (219_242, 3_412_480)


def test_plain_is_the_same_network_without_the_shortcut():
    v1, plain = (small_image_spec(24, 2, 4, block=block) for block in ("v1", "plain"))
    assert shapes_of(v1) == shapes_of(plain)
    assert sizes(block="plain").macs == sizes().macs


CONCAT = [
    ({}, 80),
    ({"width": 64}, 46),
    ({"width": 1024}, 146),
    ({"depth": 4}, 76),
    ({"depth": 1}, 53),
    ({"width": 2080, "branch_width": 192}, 829),
    ({"width": 512, "branch_width": 64, "image_shape": (32, 32, 3)}, 245),
    ({"head": "published"}, 89),
    ({"width": 1024, "head": "published"}, 210),
]


@pytest.mark.parametrize(("changes", "stream"), CONCAT, ids=str)
def test_concat_costs_as_much_as_the_residual_network(changes, stream):
    residual, concat = sizes(**changes), sizes(block="concat", **changes)
    assert abs(concat.macs / residual.macs - 1) < 0.02
    (row,) = [row for row in concat.rows if row.role == "C"]
    assert row.shape[2] == stream
    assert row.count == changes.get("depth", 10)


def test_concat_is_not_a_residual_network():
    spec = small_image_spec(24, 2, 4, block="concat")
    assert spec.default_scales == ()
    maps, params = shapes_of(spec)
    single, *tower = filters(params["Mixed_7_2"])
    assert len(set(tower)) == 1
    assert maps["Mixed_7_2"] == maps["PrePool"] == (4, 4, single + tower[-1])


@pytest.mark.parametrize("block", ["v1", "v2", "plain", "concat"])
def test_published_head(block):
    spec = small_image_spec(65, 3, 4, block=block, head="published")
    maps, params = shapes_of(spec)
    assert spec.final_conv == 48  # 65 * 1536 / 2080
    assert maps["Conv2d_7b_1x1"] == maps["PrePool"] == (4, 4, 48)
    assert params["Logits"]["kernel"] == (48, 10)
    if block != "concat":
        names = [name for stage in spec.stages for name in stage.names]
        assert names == ["block8_1", "block8_2", "Block8"]
        assert spec.default_scales[-1] == 1.0
        assert not spec.stages[-1].module().relu
        assert spec.stages[0].module().relu


def test_published_head_on_one_block():
    spec = small_image_spec(64, 1, head="published")
    assert [stage.names for stage in spec.stages] == [("Block8",)]


def test_paper_widths_are_those_of_the_published_network():
    spec = paper_width_spec(depth=2, head="published")
    maps, params = shapes_of(spec)
    published = jax.eval_shape(
        inception_jax.create("inception_resnet_v2").init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32),
    )["params"]
    published = jax.tree.map(lambda x: x.shape, published)
    for name in ("block17_1", "block17_2", "block8_1", "Block8"):
        assert params[name] == published[name], name
    assert params["Conv2d_7b_1x1"] == published["Conv2d_7b_1x1"]
    assert maps["Conv2d_2a_3x3"] == maps["block17_2"] == (9, 9, 1088)
    assert maps["Mixed_7a"] == maps["Block8"] == (4, 4, 2080)
    assert spec.default_scales == (0.1, 0.1, 0.2, 1.0)
    assert "block17_3" not in maps


@pytest.mark.parametrize("width", [64, 1792, 2080])
def test_other_widths_of_the_last_stage(width):
    maps, params = shapes_of(paper_width_spec(width, 1))
    assert maps["Mixed_7a"] == maps["block8_1"] == maps["PrePool"] == (4, 4, width)
    (reduction,) = params["Mixed_7a"].values()
    assert reduction["Conv2d_1a_3x3"]["conv"]["kernel"] == (3, 3, 1088, width)


def test_smallest_images_of_paper_widths():
    maps, _ = shapes_of(paper_width_spec(depth=1, image_shape=(15, 15, 3)))
    assert maps["block8_1"] == (1, 1, 2080)
    with pytest.raises(ValueError, match="at least 15x15 pixels"):
        shapes_of(paper_width_spec(depth=1, image_shape=(14, 14, 3)))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *product([small_image_spec, paper_width_spec], ["head", "residual_init"]),
        (small_image_spec, "block"),
    ],
)
def test_unknown_names(make, name):
    make = getattr(make, "__wrapped__", make)  # without the run-time type checks
    with pytest.raises(ValueError, match=f"^{name} must be one of .*, got 'v3'"):
        make(**{name: "v3"})


# Variance for a kernel with 384 inputs and 1088 outputs.
VARIANCES = {
    "glorot": 2 / (384 + 1088),
    "he": 2 / 384,
    "lecun": 1 / 384,
    "stddev_0.1": 0.01 * truncnorm.var(-2, 2),
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initialisers(name):
    kernel = np.asarray(INITIALIZERS[name](jax.random.key(0), (1, 1, 384, 1088)))
    np.testing.assert_allclose(kernel.var(), VARIANCES[name], rtol=0.01)
    np.testing.assert_allclose(kernel.mean(), 0, atol=1e-3)
    if name == "stddev_0.1":
        assert 0.19 < np.abs(kernel).max() <= 0.2


def test_the_named_initialiser_is_used():
    specs = (small_image_spec(), small_image_spec(residual_init="lecun"))
    assert [s.residual_init for s in specs] == [INITIALIZERS["he"], INITIALIZERS["lecun"]]
    assert paper_width_spec(residual_init="zeros").residual_init is INITIALIZERS["zeros"]
