# SPDX-License-Identifier: Apache-2.0
"""Each module of Figs 9 and 15 alone, and the parts of a network around the blocks."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax import SPECS
from inception_jax.models.fused import BatchNorm
from inception_jax.models.head import Bottleneck
from inception_jax.models.inception_a import FIG_10, InceptionA, InceptionResNetA
from inception_jax.models.inception_b import FIG_11, InceptionB, InceptionResNetB
from inception_jax.models.inception_c import FIG_13, InceptionC, InceptionResNetC
from inception_jax.models.inception_v3 import (
    InceptionV3A,
    InceptionV3B,
    InceptionV3C,
    InceptionV3ReductionA,
    InceptionV3ReductionB,
    v3_a_branches,
)
from inception_jax.models.layers import ConvBN, avg_pool, max_pool
from inception_jax.models.reduction_a import TABLE_1, ReductionA
from inception_jax.models.reduction_b import (
    FIG_12,
    InceptionResNetReductionB,
    ReductionB,
)
from inception_jax.models.stem import (
    InceptionResNetV1Stem,
    InceptionV3Stem,
    InceptionV4Stem,
    PublishedInceptionResNetV2Stem,
)
from tests.models.tiny import one_block, random_variables, three_grids

IMAGE = (299, 299, 3)
# Module, input, output. Sources: the shapes printed in Figs 9 and 15 (v1) of arXiv
# 1602.07261; for v2, the sum of the branches in Figs 7 and 18; slim for the published stem
# and v3.
MODULES = {
    "Fig. 3": (InceptionV4Stem(), IMAGE, (35, 35, 384)),
    "Fig. 14": (InceptionResNetV1Stem(), IMAGE, (35, 35, 256)),
    "published stem": (PublishedInceptionResNetV2Stem(), IMAGE, (35, 35, 320)),
    "Fig. 4": (InceptionA(), (35, 35, 384), (35, 35, 384)),
    "Fig. 10": (InceptionResNetA(FIG_10), (35, 35, 256), (35, 35, 256)),
    "Fig. 16": (InceptionResNetA(), (35, 35, 384), (35, 35, 384)),
    "Fig. 7, v4": (
        ReductionA(*TABLE_1["inception_v4"]),
        *((35, 35, 384), (17, 17, 1024)),
    ),
    "Fig. 7, v1": (
        ReductionA(*TABLE_1["inception_resnet_v1"]),
        *((35, 35, 256), (17, 17, 896)),
    ),
    "Fig. 7, v2": (
        ReductionA(*TABLE_1["inception_resnet_v2"]),
        *((35, 35, 384), (17, 17, 1152)),
    ),
    "Fig. 5": (InceptionB(), (17, 17, 1024), (17, 17, 1024)),
    "Fig. 11": (InceptionResNetB(FIG_11), (17, 17, 896), (17, 17, 896)),
    "Fig. 17": (InceptionResNetB(), (17, 17, 1152), (17, 17, 1152)),
    "Fig. 8": (ReductionB(), (17, 17, 1024), (8, 8, 1536)),
    "Fig. 12": (InceptionResNetReductionB(FIG_12), (17, 17, 896), (8, 8, 1792)),
    "Fig. 18": (InceptionResNetReductionB(), (17, 17, 1152), (8, 8, 2144)),
    "Fig. 6": (InceptionC(), (8, 8, 1536), (8, 8, 1536)),
    "Fig. 13": (InceptionResNetC(FIG_13), (8, 8, 1792), (8, 8, 1792)),
    "Fig. 19": (InceptionResNetC(), (8, 8, 2144), (8, 8, 2144)),
    "v3 stem": (InceptionV3Stem(), IMAGE, (35, 35, 192)),
    "v3 Mixed_5b": (InceptionV3A(v3_a_branches(32)), (35, 35, 192), (35, 35, 256)),
    "v3 Mixed_5c": (InceptionV3A(), (35, 35, 256), (35, 35, 288)),
    "v3 Mixed_6a": (InceptionV3ReductionA(), (35, 35, 288), (17, 17, 768)),
    "v3 Mixed_6e": (InceptionV3B(), (17, 17, 768), (17, 17, 768)),
    "v3 Mixed_7a": (InceptionV3ReductionB(), (17, 17, 768), (8, 8, 1280)),
    "v3 Mixed_7b": (InceptionV3C(), (8, 8, 1280), (8, 8, 2048)),
}


def images(*shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(7), shape, minval=-1.0)


def traced(network, shape, **call):
    """Return the shapes of (logits, endpoints) and of the variables."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return jax.eval_shape(
        lambda images: network.init_with_output(rngs, images, **call),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )


@pytest.mark.parametrize(("module", "before", "after"), MODULES.values(), ids=MODULES)
def test_module_alone(module, before, after):
    result, _ = traced(module, (2, *before))
    output = result[0] if isinstance(result, tuple) else result
    assert output.shape == (2, *after)


@pytest.mark.parametrize(("share", "seed"), [(0.2, 0), (0.6, 1)])
def test_dropout_drops_its_rate_only_in_training(share, seed):
    network = inception_jax.create(one_block(), dropout_rate=share)
    x = images(800, 8, 8, 1)
    variables = random_variables(network, x)
    _, endpoints = jax.jit(network.apply)(variables, x)
    pooled, kept = endpoints["global_pool"], endpoints["PreLogitsFlatten"]
    np.testing.assert_array_equal(pooled, kept)

    @jax.jit
    def train(key):
        (_, endpoints), _ = network.apply(
            variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return endpoints["global_pool"], endpoints["PreLogitsFlatten"]

    pooled, kept = train(jax.random.key(seed))
    dropped = (kept == 0) & (pooled != 0)
    assert abs(dropped.sum() / (pooled != 0).sum() - share) < 0.02
    rescaled = jnp.where(kept == 0, 0.0, pooled / (1 - share))
    np.testing.assert_allclose(kept, rescaled, rtol=1e-5)


def test_published_dropout_and_batch_norm_decay():
    # Share dropped: 1 - 0.8 (Fig. 9, "Dropout (keep 0.8)"); facenet-pytorch, 0.6.
    # Decay: slim's batch_norm_decay, 0.9997; facenet's batch_norm_params, 0.995.
    for name in set(SPECS) - {"inception_resnet_small"}:
        network = inception_jax.create(name)
        facenet = name == "inception_resnet_v1_facenet"
        assert network.dropout_rate == (0.6 if facenet else 0.2)
        assert network.bn_decay == (0.995 if facenet else 0.9997)


@pytest.mark.parametrize(("name", "fan"), [("v3", 576), ("v4", 576), ("resnet_v2", 1152)])
def test_published_initialisers(name, fan):
    """He initialisation in slim's v3 and v4; Glorot, slim's default, elsewhere."""
    init = SPECS[f"inception_{name}"].kernel_init
    kernel = init(jax.random.key(0), (3, 3, 64, 64))
    np.testing.assert_allclose(kernel.var(), 2 / fan, rtol=0.03)


def test_bfloat16_applies_only_to_the_computation():
    x = images(16, 8, 8, 1)
    outputs = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        network = inception_jax.create(one_block(), dtype=dtype)
        variables = random_variables(network, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        train = jax.jit(lambda v, x, n=network: n.apply(v, x, train=True, mutable=True))
        (logits, endpoints), updated = train(variables, x)
        stats = jax.tree.leaves(updated["batch_stats"])
        assert {leaf.dtype for leaf in stats} == {jnp.dtype("float32")}
        assert logits.dtype == endpoints["global_pool"].dtype == jnp.float32
        assert endpoints["Conv2d_1a_3x3"].dtype == endpoints["block8_1"].dtype == dtype
        outputs[dtype] = logits, stats
    (logits, stats), (half_logits, half_stats) = outputs.values()
    # bfloat16 has 8 significant bits: 0.4 % for each of about ten successive roundings.
    assert 0 < jnp.abs(half_logits - logits).max() < 0.05 * jnp.abs(logits).max()
    for stat, half in zip(stats, half_stats, strict=True):
        np.testing.assert_allclose(half, stat, rtol=0, atol=0.02 * jnp.abs(stat).max())


@pytest.mark.parametrize("name", ["inception_resnet_v1_facenet", "inception_resnet_small"])
def test_without_classes_the_output_is_features(name):
    network = inception_jax.create(name, num_classes=0)
    shape = (2, 75, 75, network.spec.image_shape[2])
    (features, endpoints), variables = traced(network, shape)
    last = "Embeddings" if network.spec.embedding else "PreLogitsFlatten"
    assert features.shape == endpoints[last].shape == (2, features.shape[1])
    assert "Logits" not in endpoints
    assert "Logits" not in variables["params"]


def test_embeddings_have_unit_length():
    network = inception_jax.create(one_block(embedding=16), num_classes=0)
    x = images(4, 8, 8, 1)
    features, endpoints = jax.jit(network.apply)(random_variables(network, x), x)
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), 1.0, rtol=1e-5)
    length = jnp.linalg.norm(endpoints["Bottleneck"], axis=-1, keepdims=True)
    assert (jnp.abs(length - 1) > 0.05).all()
    np.testing.assert_allclose(features * length, endpoints["Bottleneck"], rtol=1e-4)
    with_classes = inception_jax.create(one_block(embedding=16), num_classes=3)
    (logits, endpoints), _ = traced(with_classes, x.shape)
    assert logits.shape == endpoints["Logits"].shape == (4, 3)


def test_aux_head_appears_only_in_training():
    network = inception_jax.create(three_grids(70), aux_head=True)  # 17x17 in the middle
    (_, endpoints), variables = traced(network, (2, 70, 70, 1), train=True)
    assert endpoints["AuxLogits"].shape == (2, 10)
    x = jax.ShapeDtypeStruct((2, 70, 70, 1), jnp.float32)
    _, endpoints = jax.eval_shape(network.apply, variables, x)
    assert "AuxLogits" not in endpoints


def test_average_pool_leaves_padding_out_of_the_mean():
    np.testing.assert_allclose(avg_pool(jnp.ones((1, 4, 5, 2))), 1.0, rtol=1e-6)
    x = images(1, 3, 3, 1)
    corner = avg_pool(x)[0, 0, 0, 0]
    np.testing.assert_allclose(corner, x[0, :2, :2, 0].mean(), rtol=1e-5)


def test_max_pool_is_unpadded_and_halves():
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[14, 16], [26, 28]])


@pytest.mark.parametrize("module", [ConvBN(6, (1, 1)), Bottleneck(6)])
def test_batch_norm_epsilon(module):
    """With a moving variance of 0 the output is the layer's divided by sqrt(1e-3)."""
    x = jnp.ones((1, 1, 1, 4)) if isinstance(module, ConvBN) else jnp.ones((1, 4))
    variables = random_variables(module, x)
    variables["batch_stats"]["bn"]["var"] *= 0
    (kernel,) = (v["kernel"] for v in variables["params"].values() if "kernel" in v)
    plain = jnp.sum(kernel.reshape(4, 6), axis=0) / np.sqrt(1e-3)
    expected = jax.nn.relu(plain) if isinstance(module, ConvBN) else plain
    np.testing.assert_allclose(module.apply(variables, x).ravel(), expected, rtol=1e-5)


def test_decay_reaches_every_batch_norm():
    """One step moves the averages by (1 - decay) of the way to the batch's."""
    x, moved = images(4, 8, 8, 1), []
    for decay in (0.0, 0.75):
        network = inception_jax.create(one_block(embedding=8), bn_decay=decay)
        before = random_variables(network, x)
        apply = jax.jit(lambda v, x, n=network: n.apply(v, x, train=True, mutable=True))
        _, after = apply(before, x)
        subtract = jax.tree.map(jnp.subtract, after["batch_stats"], before["batch_stats"])
        moved.append(subtract)
    all_the_way, a_quarter = moved
    for far, near in zip(*map(jax.tree.leaves, (all_the_way, a_quarter)), strict=True):
        np.testing.assert_allclose(near, 0.25 * far, rtol=1e-3, atol=1e-6)
        assert jnp.abs(far).max() > 1e-3


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v1_facenet"])
def test_epsilon_and_decay_of_every_batch_norm(name):
    network = inception_jax.create(name, bn_decay=0.5, aux_head=name == "inception_v4")
    norms = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            norms.append((context.module.epsilon, context.module.momentum))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        _, variables = traced(network, (1, *network.spec.image_shape))
    assert set(norms) == {(1e-3, 0.5)}
    assert 2 * len(norms) == len(jax.tree.leaves(variables["batch_stats"]))


def test_frozen_batch_norm_computes_as_in_evaluation():
    """In convolutions, after a residual, before the pool and in the bottleneck."""
    spec = one_block(embedding=8, pool_norm="after_relu")
    spec = replace(spec, residual=replace(spec.residual, norm=True))
    network = inception_jax.create(spec, bn_frozen=True)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)), jnp.float32)
    variables = random_variables(network, x)
    variables["batch_stats"] = jax.tree.map(lambda s: s + 0.5, variables["batch_stats"])
    free = inception_jax.create(spec)
    shapes = [jax.eval_shape(n.init, jax.random.key(0), x) for n in (network, free)]
    assert shapes[0] == shapes[1]
    (logits, _), updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
    jax.tree.map(
        np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"]
    )
    expected, _ = free.apply(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    (moved, _), _ = free.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.abs(moved - expected).max() > 1e-2


def test_operations_of_a_stem_are_named_after_its_endpoints():
    """`inception-jax plan` and profiles use these names, also for pools."""
    stem = PublishedInceptionResNetV2Stem()
    images = jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32)
    variables = jax.eval_shape(stem.init, jax.random.key(0), images)
    _, endpoints = jax.eval_shape(stem.apply, variables, images)
    text = jax.jit(stem.apply).lower(variables, images).as_text(debug_info=True)
    assert {"MaxPool_3a_3x3", "MaxPool_5a_3x3"} < set(endpoints)
    assert [name for name in endpoints if f"/{name}/" not in text] == []
