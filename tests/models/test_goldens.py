# SPDX-License-Identifier: Apache-2.0
"""Outputs equal those of timm, Keras and facenet-pytorch with the same weights.

Weights and images are computed from names (goldens/fill.py). The outputs of those libraries
are in goldens/*.npz, made by goldens/regenerate.py. If one of these tests fails, the
network is no longer the published one.
"""

from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.weights.layouts import NAMES_FOLDER
from tests.goldens.fill import fill, golden_variables, images

GOLDENS = Path(__file__).parents[1] / "goldens"

# Source: our network, options, native size, largest allowed difference of the outputs
# (ours in float32, theirs in float64; five to twenty times the rounding error).
SOURCES = {
    "timm_inception_v3": ("inception_v3", {}, 299, 1e-4),
    "keras_inception_v3": ("inception_v3", {"bn_scale": False}, 299, 1e-4),
    "timm_inception_v4": ("inception_v4", {}, 299, 1e-3),
    "timm_inception_resnet_v2": ("inception_resnet_v2", {}, 299, 1e-4),
    "keras_inception_resnet_v2": (
        "inception_resnet_v2",
        {"bn_scale": False},
        299,
        1e-4,
    ),
    "facenet_pytorch_inception_resnet_v1": (
        "inception_resnet_v1_facenet",
        {},
        160,
        2e-6,
    ),
}
# Largest difference of the outputs at 75 pixels, where the last feature map is 1x1: about
# ten times the rounding error, so that even a wrong epsilon in one layer is detected.
SMALL = {
    "timm_inception_v3": 2e-5,
    "keras_inception_v3": 2e-5,
    "timm_inception_v4": 2e-5,
    "timm_inception_resnet_v2": 5e-5,
    "keras_inception_resnet_v2": 5e-5,
    "facenet_pytorch_inception_resnet_v1": 2e-6,
}


@cache
def golden(source: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{source}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def network_and_variables(source: str):
    name, options, size, _ = SOURCES[source]
    network = inception_jax.create(name, dropout_rate=0.0, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return network, golden_variables(source, shapes)


def test_fill_starts_with_the_known_numbers():
    source = "timm_inception_v4"
    kernel = fill(source, "features.0.conv.weight", (32, 3, 3, 3), kind="conv", out_axis=0)
    np.testing.assert_allclose(
        kernel.ravel()[:4],
        [0.43047485, 0.23332797, 0.5340915, 0.10234558],
        rtol=1e-6,
    )
    variance = fill(source, "features.0.bn.running_var", (32,), kind="variance")
    np.testing.assert_allclose(
        variance[:4], [1.2083243, 1.3697635, 1.2463341, 1.201013], rtol=1e-6
    )


# Resnet-v2 is v1 with other widths, and Keras's networks are timm's without gamma.
QUICK = (
    "facenet_pytorch_inception_resnet_v1",
    "timm_inception_v3",
    "timm_inception_v4",
)


@pytest.mark.parametrize(
    "source",
    [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SMALL],
)
def test_outputs_at_75_pixels(source):
    network, variables = network_and_variables(source)
    logits, _ = jax.jit(network.apply)(variables, images(75))
    expected = golden(source)["logits_75"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=SMALL[source])


def test_timm_counts_padding_where_tensorflow_does_not(monkeypatch):
    """Our Inception-v3 equals timm's unchanged one if our pools count the padding.

    Otherwise the logits are 0.84 apart at 75 pixels (2.8 times their standard
    deviation) and 0.50 at 299 pixels (0.4 times).
    """
    source, pool = "timm_inception_v3", nn.avg_pool
    network, variables = network_and_variables(source)

    def counting_padding(x, *shape, **options):
        return pool(x, *shape, **(options | {"count_include_pad": True}))

    monkeypatch.setattr(nn, "avg_pool", counting_padding)
    logits, _ = jax.jit(lambda v, x: network.apply(v, x))(variables, images(75))
    file = golden(source)
    expected = file["padding_counted/logits_75"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=SMALL[source])
    for size, apart in ((75, 0.839), (299, 0.503)):
        difference = file[f"padding_counted/logits_{size}"] - file[f"logits_{size}"]
        assert abs(np.abs(difference).max() - apart) < 1e-3


def tap_endpoint(source: str, tap: str) -> str:
    """Return our endpoint for a stage name of the golden file."""
    if "." in tap:
        stage, index = tap.split(".")
        blocks = {"repeat": "block35", "repeat_1": "block17", "repeat_2": "block8"}
        if source.startswith("facenet"):
            blocks = {
                "repeat_1": "block35",
                "repeat_2": "block17",
                "repeat_3": "block8",
            }
        return f"{blocks[stage]}_{int(index) + 1}"
    known = {
        "conv2d_1a": "Conv2d_1a_3x3",
        "conv2d_2a": "Conv2d_2a_3x3",
        "conv2d_2b": "Conv2d_2b_3x3",
        "maxpool_3a": "MaxPool_3a_3x3",
        "conv2d_3b": "Conv2d_3b_1x1",
        "conv2d_4a": "Conv2d_4a_3x3",
        "conv2d_4b": "Conv2d_4b_3x3",
        "maxpool_5a": "MaxPool_5a_3x3",
        "mixed_5b": "Mixed_5b",
        "mixed_6a": "Mixed_6a",
        "mixed_7a": "Mixed_7a",
        "block8": "Block8",
        "conv2d_7b": "Conv2d_7b_1x1",
        "avgpool_1a": "global_pool",
        "last_bn": "Bottleneck",
    }
    return known.get(tap, tap)


def tap_figures(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return statistics and probes of one stage, as `regenerate.py` stores them."""
    x = np.asarray(x, np.float64)
    if x.ndim == 2:
        x = x[:, None, None, :]
    _, height, width, channels = x.shape
    axes = (1, 2, 3)
    stats = np.stack([x.mean(axes), x.std(axes), x.min(axes), x.max(axes)], -1)
    picked = np.unique(np.linspace(0, channels - 1, min(8, channels)).astype(int))
    places = [(0, 0), (height // 2, width // 3), (height - 1, width - 1)]
    probe = np.stack([x[:, h, w, picked] for h, w in places], axis=1)
    return stats, probe


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_outputs_and_every_stage_at_full_size(source):
    network, variables = network_and_variables(source)
    _, _, size, tolerance = SOURCES[source]
    logits, endpoints = jax.jit(network.apply)(variables, images(size))
    file = golden(source)
    np.testing.assert_allclose(logits, file[f"logits_{size}"], rtol=0, atol=tolerance)
    taps = [key.split("/")[1] for key in file if key.endswith("/shape")]
    compared = 0
    for tap in taps:
        if tap == "last_linear":  # before the bottleneck's batch norm: not an endpoint
            continue
        x = endpoints[tap_endpoint(source, tap)]
        # torch keeps the two spatial axes of the pool's output.
        expected = [d for d in file[f"tap/{tap}/shape"] if d != 1]
        assert list(x.shape) == expected, tap
        stats, probe = tap_figures(x)
        spread = file[f"tap/{tap}/stats"][:, 1].max()
        for ours, name in ((stats, "stats"), (probe, "probe")):
            theirs = file[f"tap/{tap}/{name}"]
            np.testing.assert_allclose(
                ours, theirs, rtol=0, atol=1e-3 * spread, err_msg=tap
            )
        compared += 1
    assert compared >= 19  # Inception-v3 has the fewest, 19


@pytest.mark.slow
@pytest.mark.parametrize("source", [s for s in SMALL if not s.startswith("keras")])
def test_training_mode_statistics(source):
    """Batch statistics, and the moving averages after one step of torch's momentum."""
    name, options, size, _ = SOURCES[source]
    network = inception_jax.create(name, dropout_rate=0.0, bn_decay=0.9, **options)
    _, variables = network_and_variables(source)
    step = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
    (logits, _), updated = step(variables, images(size))
    file = golden(source)
    if not source.startswith("facenet"):
        # facenet normalises two samples at the end, which leaves only signs.
        expected = file[f"train_logits_{size}"]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=0.02 * expected.std())
    layers = {
        bn: layer
        for layer, (_, bn) in _layers(source).items()
        if bn and f"train_bn/{bn}/running_mean" in file
    }
    assert len(layers) == 3
    for bn, layer in layers.items():
        old = _lookup(variables["batch_stats"], layer)
        new = _lookup(updated["batch_stats"], layer)
        positions = _positions(network, variables, layer, size)
        count = 2 * positions
        # torch keeps the unbiased variance, n / (n - 1) times the batch variance.
        batch_var = (new["var"] - 0.9 * old["var"]) / 0.1
        unbiased = 0.9 * old["var"] + 0.1 * batch_var * count / (count - 1)
        mean = file[f"train_bn/{bn}/running_mean"]
        var = file[f"train_bn/{bn}/running_var"]
        np.testing.assert_allclose(new["mean"][:16], mean, atol=2e-4, err_msg=bn)
        np.testing.assert_allclose(unbiased[:16], var, rtol=2e-3, err_msg=bn)


def _layers(source: str) -> dict[str, list]:
    import json

    return json.loads((NAMES_FOLDER / f"{source}.json").read_text())


def _lookup(tree: dict, layer: str) -> dict:
    for key in [*layer.split("/"), "bn"]:
        tree = tree[key]
    return tree


def _positions(network, variables, layer: str, size: int) -> int:
    """Return height times width of the feature map that `layer` normalises."""
    top = layer.split("/")[1 if layer.startswith("Stem") else 0]
    if top == "Bottleneck":
        return 1
    _, endpoints = jax.eval_shape(network.apply, variables, images(size))
    _, height, width, _ = endpoints[top].shape
    return height * width
