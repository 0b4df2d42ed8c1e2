# SPDX-License-Identifier: Apache-2.0
"""The signals of a two-block network against NumPy, of other networks, and on devices."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import inception_jax
from inception_jax import small_image_spec
from inception_jax.runtime.parallel import ShardedFunction
from inception_jax.training.diagnostics import (
    BLOCK_SIGNALS,
    classifier_curvature,
    signals,
)
from tests.models.tiny import one_block, random_variables, three_grids

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
NETWORK = inception_jax.create(
    small_image_spec(width=6, depth=2, branch_width=3), num_classes=4, dropout_rate=0.5
)
SCALES = (0.5, 0.25)
NUMBERS = {"pool_dead", "pool_tiny", "pool_dead_images", "feature_norm2"}
OF_CLASSIFIER = {"logit_rms", "curvature", "logits"}


def close(result: Any, expected: Any, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=1e-6)


@cache
def variables() -> dict:
    """Variables whose biases kill one channel in the first block and two in the second."""
    made = jax.tree.map(np.array, random_variables(NETWORK, jnp.asarray(IMAGES)))
    for block, channels in (("block8_1", [0]), ("block8_2", [0, 3])):
        made["params"][block]["Conv2d_1x1"]["bias"][channels] = -1e3
    return made


@cache
def found() -> dict[str, np.ndarray]:
    take = jax.jit(partial(signals, NETWORK))
    return jax.device_get(take(variables(), IMAGES, jnp.array(SCALES)))


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int = 1, same: bool = True):
    height, width = kernel.shape[:2]
    if same:
        around = ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0))
        x = np.pad(x, around)
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def box(x: np.ndarray, params: dict, **options: Any) -> np.ndarray:
    """Convolution, normalisation with the statistics of the batch, ReLU."""
    y = convolved(x, params["conv"]["kernel"].astype(float), **options)
    y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-3)
    return np.maximum(y * params["bn"]["scale"] + params["bn"]["bias"], 0)


@cache
def by_hand() -> dict[str, Any]:
    """Return streams before and after the blocks, scaled residuals, features and logits."""
    params = variables()["params"]
    x = box(IMAGES.astype(float), params["Stem"]["Conv2d_1a_3x3"])
    x = box(x, params["Stem"]["Conv2d_2a_2x2"], stride=2, same=False)
    streams, residuals = [x], []
    for name, scale in zip(("block8_1", "block8_2"), SCALES, strict=True):
        block = params[name]
        left = box(x, block["Branch_0"]["Conv2d_1x1"])
        right = x
        for layer in ("Conv2d_0a_1x1", "Conv2d_0b_1x3", "Conv2d_0c_3x1"):
            right = box(right, block["Branch_1"][layer])
        linear = block["Conv2d_1x1"]
        up = convolved(np.concatenate([left, right], -1), linear["kernel"].astype(float))
        residuals.append(scale * (up + linear["bias"]))
        x = np.maximum(x + residuals[-1], 0)
        streams.append(x)
    features = x.mean((1, 2))
    logits = features @ params["Logits"]["kernel"] + params["Logits"]["bias"]
    return {
        "streams": streams,
        "residuals": residuals,
        "features": features,
        "logits": logits,
    }


def size(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_the_blocks_of_a_network_against_numpy():
    hand = by_hand()
    first, *streams = hand["streams"]
    result = found()
    assert set(result) == {*BLOCK_SIGNALS, *NUMBERS, *OF_CLASSIFIER}
    close(result["dead"], [1 / 6, 2 / 6])
    close(result["tiny"], [1 / 6, 2 / 6])
    close(result["dead_images"], [0, 0])
    close(result["stream_rms"], [size(x) for x in streams])
    close(result["stream_mean"], [x.mean() for x in streams])
    close(result["residual_mean"], [x.mean() for x in hand["residuals"]])
    ratios = [
        size(residual) / size(before)
        for residual, before in zip(hand["residuals"], (first, streams[0]), strict=True)
    ]
    close(result["residual_ratio"], ratios)


def test_the_head_of_a_network_against_numpy():
    """The curvature is compared with the eigenvalues of the whole Hessian."""
    hand, result = by_hand(), found()
    close(result["pool_dead"], 2 / 6)
    close(result["pool_tiny"], 2 / 6)
    close(result["pool_dead_images"], 0)
    close(result["feature_norm2"], np.mean(np.sum(hand["features"] ** 2, -1)))
    close(result["logits"], hand["logits"], rtol=1e-3)
    close(result["logit_rms"], size(hand["logits"]))
    block = np.zeros((7 * 4, 7 * 4))
    for features, logits in zip(hand["features"], hand["logits"], strict=True):
        p = np.exp(logits) / np.exp(logits).sum()
        f = np.append(features, 1)
        block += np.kron(np.outer(f, f), np.diag(p) - np.outer(p, p)) / len(IMAGES)
    close(result["curvature"], np.linalg.eigvalsh(block)[-1], rtol=1e-3)


def test_training_options_do_not_change_the_signals():
    """Dropout, the auxiliary head, shared statistics and moving averages."""
    other = NETWORK.clone(dropout_rate=0.0, bn_axis_name="data", bn_decay=0.1)
    changed = variables() | {
        "batch_stats": jax.tree.map(lambda x: x + 1.0, variables()["batch_stats"])
    }
    result = jax.jit(partial(signals, other))(changed, IMAGES, jnp.array(SCALES))
    jax.tree.map(close, dict(result), found())


def test_a_dead_network():
    """Everything after the first block is zero, and zero is added to zero."""
    made = jax.tree.map(jnp.asarray, variables())
    made["params"]["block8_1"]["Conv2d_1x1"]["bias"] = jnp.full(6, -1e3)
    made["params"]["block8_2"]["Conv2d_1x1"]["bias"] = jnp.zeros(6)
    result = jax.jit(partial(signals, NETWORK))(made, IMAGES, jnp.array(SCALES))
    for name in ("dead", "tiny", "dead_images"):
        assert result[name].tolist() == [1, 1]
        assert result[f"pool_{name}"] == 1
    assert result["stream_rms"].tolist() == [0, 0]
    assert result["residual_ratio"][0] > 100
    assert np.isnan(result["residual_ratio"][1])
    assert result["feature_norm2"] == 0
    # Only the bias contributes: diag(p) - p p^T with equal p.
    close(result["curvature"], 1 / 4)


@pytest.mark.parametrize(
    ("name", "modules", "residuals"),
    [
        ("inception_v4", 4 + 1 + 7 + 1 + 3, 0),
        pytest.param(
            "inception_resnet_v2", 10 + 1 + 20 + 1 + 10, 40, marks=pytest.mark.slow
        ),
    ],
)
def test_full_networks(name, modules, residuals):
    network = inception_jax.create(name, aux_head=True)
    images = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    assert len(network.spec.default_scales) == residuals
    result = jax.eval_shape(partial(signals, network), shapes, images)
    assert {key: x.shape for key, x in result.items()} == {
        **dict.fromkeys(BLOCK_SIGNALS, (modules,)),
        **dict.fromkeys(NUMBERS | OF_CLASSIFIER, ()),
        "logits": (2, 1000),
    }


def test_modules_without_a_residual():
    """The reductions of a residual network, and a network without blocks."""
    network = inception_jax.create(three_grids())
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    result = jax.jit(partial(signals, network))(random_variables(network, images), images)
    reductions = [False, True, False, False, False, True, False, False]
    for name in ("residual_ratio", "residual_mean"):
        assert np.isnan(result[name]).tolist() == reductions
    assert np.all(result["stream_rms"] > 0)
    bare = inception_jax.create(one_block(stages=()))
    made = random_variables(bare, jnp.asarray(IMAGES))
    result = jax.jit(partial(signals, bare))(made, IMAGES)
    assert {result[name].shape for name in BLOCK_SIGNALS} == {(0,)}
    assert result["feature_norm2"] > 0


def test_without_a_classifier():
    """The facenet network has an embedding of unit length and no logits."""
    network = inception_jax.create(one_block(embedding=3), num_classes=0)
    made = random_variables(network, jnp.asarray(IMAGES))
    result = jax.jit(partial(signals, network))(made, IMAGES)
    assert set(result) == {*BLOCK_SIGNALS, *NUMBERS}


def test_the_classifier_behind_an_embedding():
    """Its input is the embedding, not the pooled features."""
    network = inception_jax.create(one_block(embedding=3), num_classes=4)
    made = random_variables(network, jnp.asarray(IMAGES))
    result = jax.jit(partial(signals, network))(made, IMAGES)
    (logits, endpoints), _ = network.apply(made, IMAGES, train=True, mutable=True)
    expected = classifier_curvature(endpoints["Bottleneck"], logits)
    close(result["curvature"], expected)


def test_1_2_and_4_devices_see_the_same():
    """Batch statistics are those of the whole batch, not of one shard."""

    def take(made: dict, batch: dict, scale: jax.Array) -> dict:
        return signals(NETWORK, made, batch["image"], scale)

    for devices in (1, 2, 4):
        look = ShardedFunction(take, jax.devices()[:devices])
        batch = look.place({"image": IMAGES})
        assert len(batch["image"].sharding.device_set) == devices
        result = jax.device_get(look(variables(), batch, jnp.array(SCALES)))
        jax.tree.map(close, dict(result), found())


def test_one_network_per_device():
    """Under shard_map, each device has its own parameters and scale."""
    mesh = jax.make_mesh((2,), ("arm",), axis_types=(jax.sharding.AxisType.Auto,))
    other = jax.tree.map(lambda x: 1.5 * x, variables())
    both = jax.tree.map(lambda *x: jnp.stack(x), variables(), other)
    scales = jnp.array([SCALES, (1.0, 1.0)])

    def one(made: dict, images: jax.Array, scale: jax.Array) -> dict:
        made, scale = jax.tree.map(lambda x: x[0], (made, scale))
        return jax.tree.map(lambda x: x[None], signals(NETWORK, made, images, scale))

    specs = {"in_specs": (P("arm"), P(), P("arm")), "out_specs": P("arm")}
    result = jax.jit(jax.shard_map(one, mesh=mesh, **specs))(both, IMAGES, scales)
    second = jax.jit(partial(signals, NETWORK))(other, IMAGES, scales[1])
    for i, alone in enumerate((found(), second)):
        jax.tree.map(lambda x, y, i=i: close(x[i], y), dict(result), dict(alone))
