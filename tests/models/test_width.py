# SPDX-License-Identifier: Apache-2.0
"""Networks with all channels in proportion."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.models.network import create
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.small_images import small_image_spec
from inception_jax.models.spec import NetworkSpec
from inception_jax.models.width import with_width
from inception_jax.models.zoo import SPECS


def shapes(spec: NetworkSpec) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of every parameter by path."""
    network = create(spec, num_classes=10)
    images = jnp.zeros((1, *spec.image_shape))
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize(
    "name", ["inception_v4", "inception_resnet_v2", "inception_resnet_small"]
)
def test_every_layer_has_half_of_its_channels(name):
    """All parameters are compared; the data and the embedding fix the outer sizes."""
    spec = SPECS[name]
    full, half = shapes(spec), shapes(with_width(spec, 0.5))
    assert half.keys() == full.keys()
    for path, shape in full.items():
        *grid, inputs, outputs = (1, 1, *shape)[-4:]
        *grid_half, inputs_half, outputs_half = (1, 1, *half[path])[-4:]
        assert grid_half == grid or len(shape) == 1
        ends = (spec.image_shape[2], 10, spec.embedding)
        assert outputs_half == (outputs if outputs in ends else outputs / 2), path
        if len(shape) > 1:
            assert inputs_half == (inputs if inputs in ends else inputs / 2), path


@pytest.mark.parametrize(("factor", "width"), [(0.25, 536), (0.5, 1072), (1.0, 2144)])
def test_the_last_stream_of_v2(factor, width):
    spec = with_width(SPECS["inception_resnet_v2_paper"], factor)
    assert shapes(spec)["Logits", "kernel"] == (width, 10)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_but_the_width_changes(name):
    full, narrow = SPECS[name], with_width(SPECS[name], 0.3)
    assert receptive_fields(narrow) == receptive_fields(full)
    assert [getattr(stage.module(), "relu", None) for stage in narrow.stages] == [
        getattr(stage.module(), "relu", None) for stage in full.stages
    ]


def test_other_factors():
    spec = small_image_spec(width=64, branch_width=6)
    assert with_width(spec, 1.0) is spec
    assert shapes(with_width(spec, 0.01))["Logits", "kernel"] == (1, 10)
    assert with_width(spec, 0.5) is with_width(spec, 0.5)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"positive and finite, got {factor}"):
            with_width(spec, factor)
