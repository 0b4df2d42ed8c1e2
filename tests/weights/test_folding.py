# SPDX-License-Identifier: Apache-2.0
"""A folded model has the outputs of the model, and rejects calls that would differ."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax import create, fold
from inception_jax.config import PreprocessSpec
from inception_jax.models.ablation import ablated
from inception_jax.models.zoo import SPECS
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.weights.model import Model
from tests.goldens.fill import golden_variables, images
from tests.models.test_goldens import SOURCES, golden
from tests.models.tiny import one_block, three_grids
from tests.saved import CARD
from tests.test_figures import first_blocks

NETWORKS = {
    "three grids, published scales": (three_grids(), {"residual_scale": None}),
    "norm, scale of a channel, embedding": (
        ablated(
            one_block(embedding=5),
            residual_norm=True,
            learned_scale="channel",
            pool_norm="before_relu",
        ),
        {"bn_scale": False},
    ),
    "one learned scale, pre-activation, features": (
        ablated(one_block(), learned_scale="scalar", activation="pre"),
        {"class_names": ()},
    ),
}


def made(monkeypatch, spec, **changes) -> tuple[Model, dict]:
    """Return a model of the network, and random variables with random moving averages."""
    monkeypatch.setitem(SPECS, "tiny", spec)
    preprocess = PreprocessSpec(spec.image_shape)
    model = Model(replace(CARD, **{"preprocess": preprocess, **changes}))
    rng = np.random.default_rng(0)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key in ("scale", "var", "learned_scale"):
            values = rng.uniform(0.5, 2, leaf.shape)
        else:
            gain = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.3
            values = rng.normal(0, gain, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(fill, model.shapes)


@pytest.mark.parametrize(("spec", "changes"), NETWORKS.values(), ids=NETWORKS)
def test_folding_preserves_outputs_and_endpoints(monkeypatch, spec, changes):
    model, variables = made(monkeypatch, spec, **changes)
    folded, fewer = fold(model, variables)
    names = " ".join(flatten_with_paths(fewer))
    assert ("bn" in names, "batch_stats" in names) == (False, spec.pool_norm != "none")
    assert jax.tree.map(jnp.shape, fewer) == jax.tree.map(lambda x: x.shape, folded.shapes)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.uniform(-1, 1, (3, *spec.image_shape)), jnp.float32)
    expected, found = (
        jax.jit(m.apply)(v, x) for m, v in ((model, variables), (folded, fewer))
    )
    assert list(found[1]) == list(expected[1])
    for name, values in (*expected[1].items(), ("output", expected[0])):
        mine = found[0] if name == "output" else found[1][name]
        assert jnp.abs(mine - values).max() < 1e-5 * jnp.std(values), name


@pytest.mark.parametrize("name", SPECS)
def test_all_feature_maps_are_bfloat16(name):
    """A float32 map would make all later sums float32, with twice the memory."""
    network = create(first_blocks(SPECS[name]), dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, *SPECS[name].image_shape), jnp.float32)
    for form, options in (
        (network.clone(folded=True), {}),
        (network, {}),
        (network, {"train": True, "mutable": ["batch_stats"]}),
    ):
        variables = jax.eval_shape(form.init, jax.random.key(0), images)
        given = options | {"rngs": {"dropout": jax.random.key(0)}}
        found = jax.eval_shape(partial(form.apply, **given), variables, images)
        _, endpoints = found[0] if options else found
        maps = {k: x.dtype for k, x in endpoints.items() if len(x.shape) == 4}
        assert len(maps) > 2
        assert {k for k, dtype in maps.items() if dtype != jnp.bfloat16} == set()


def test_the_auxiliary_head_is_left_out(monkeypatch):
    model, variables = made(monkeypatch, three_grids(70), aux_head=True)
    assert "AuxLogits" in variables["params"]
    folded, fewer = fold(model, variables)
    assert jax.tree.map(jnp.shape, fewer) == jax.tree.map(lambda x: x.shape, folded.shapes)


def test_models_that_cannot_be_folded_are_rejected(monkeypatch):
    model, variables = made(monkeypatch, one_block())
    folded, fewer = fold(model, variables)
    with pytest.raises(ValueError, match="already folded; call fold with the model"):
        fold(folded, fewer)
    with pytest.raises(ValueError, match="tiny cannot use these variables: "):
        fold(model, fewer)
    x = jnp.zeros((1, 8, 8, 1))
    for options in ({"residual_scale": 0.5}, {"train": True}):
        with pytest.raises(ValueError, match="inference at the residual scale it was"):
            folded.apply(fewer, x, **options)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["timm_inception_v4", "timm_inception_resnet_v2"])
def test_published_networks_at_full_size(source):
    network, _, size, tolerance = SOURCES[source]
    card = replace(CARD, network=network, residual_scale=None)
    names = tuple(str(k) for k in range(SPECS[network].num_classes))
    preprocess = PreprocessSpec(SPECS[network].image_shape)
    model = Model(replace(card, class_names=names, preprocess=preprocess))
    folded, fewer = fold(model, golden_variables(source, model.shapes))
    logits, _ = jax.jit(folded.apply)(fewer, images(size))
    expected = golden(source)[f"logits_{size}"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
