# SPDX-License-Identifier: Apache-2.0
"""Weights and images computed from names alone, so that the goldens need no weight files.

Every array is a function of the name it has in the source (timm, Keras, facenet-pytorch):
a SplitMix64 counter stream keyed by the CRC-32 of the name, filled in C order in the
source's own layout. `regenerate.py` puts the same arrays into the source's model.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from inception_jax.weights.layouts import NAMES_FOLDER

HERE = Path(__file__).parent

# Variance times fan-in of the kernels, chosen so that activations keep their size and
# two different images keep different outputs; the classifier gain gives logits of
# about unit spread.
CONV_VARIANCE, LINEAR_VARIANCE = 2.6, 2.0
CLASSIFIER_GAIN = {
    "timm_inception_v3": 1.0,
    "keras_inception_v3": 1.0,
    "timm_inception_v4": 1.0,
    "timm_inception_resnet_v2": 0.3,
    "keras_inception_resnet_v2": 0.3,
    "facenet_pytorch_inception_resnet_v1": 1.0,
}


def uniform(name: str, count: int) -> np.ndarray:
    """Return `count` multiples of 2**-24 in [0, 1) that depend on `name` alone."""
    with np.errstate(over="ignore"):
        seed = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        step = np.uint64(0x9E3779B97F4A7C15)
        z = seed + np.arange(1, count + 1, dtype=np.uint64) * step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def images(size: int) -> np.ndarray:
    """Return two images [2, size, size, 3] in [-1, 1]: noise, and a smooth one."""
    noise = 2 * uniform("input:0", size * size * 3).reshape(size, size, 3) - 1
    h, w, c = np.indices((size, size, 3))
    smooth = 0.6 * np.sin(0.11 * h + 0.9 * c) * np.cos(0.047 * w - 0.5 * c)
    smooth += 0.4 * np.sin(0.031 * w + 0.019 * h + 1.7 * c)
    return np.stack([noise, smooth]).astype(np.float32)


def fill(
    source: str, name: str, shape: tuple[int, ...], *, kind: str, out_axis: int = -1
) -> np.ndarray:
    """Return the array called `name`; `out_axis` is the axis of output channels in `shape`.

    `kind` is conv (followed by batch normalisation), linear (the 1x1 convolution that
    ends a residual block), classifier, gamma, variance or small (biases and means).
    """
    u = uniform(name, math.prod(shape)).reshape(shape)
    signed = 2 * u - 1
    fan_in = math.prod(shape) // shape[out_axis]
    if kind == "conv":
        x = signed * np.sqrt(3 * CONV_VARIANCE / fan_in)
        if fan_in > 27:  # except in the first layer, subtract half of each filter's mean
            axes = tuple(i for i in range(4) if i != out_axis % 4)
            x = x - 0.5 * x.mean(axes, keepdims=True)
    elif kind == "linear":
        x = signed * np.sqrt(3 * LINEAR_VARIANCE / fan_in)
    elif kind == "classifier":
        x = signed * np.sqrt(3 / fan_in) * CLASSIFIER_GAIN[source]
    elif kind == "gamma":
        x = 1 + 0.2 * signed
    elif kind == "variance":
        x = 0.6 + 0.9 * u
    else:
        x = 0.1 * signed
    return x.astype(np.float32)


def _source_leaf(source: str, scope: list[str], leaf: str, rank: int):
    """Return (name in the source, kind) of the array that we call `scope`/`leaf`."""
    layers = json.loads((NAMES_FOLDER / f"{source}.json").read_text())
    if source.startswith("keras"):
        join, kernel, beta = "/", "kernel", "beta"
        mean, variance = "moving_mean", "moving_variance"
    else:
        join, kernel, beta = ".", "weight", "bias"
        mean, variance = "running_mean", "running_var"
    if scope[-1] == "bn":
        suffix, kind = {
            "scale": ("weight", "gamma"),
            "bias": (beta, "small"),
            "mean": (mean, "small"),
            "var": (variance, "variance"),
        }[leaf]
        return layers["/".join(scope[:-1])][1] + join + suffix, kind
    kind = "classifier" if rank == 2 else "linear"
    if scope[-1] in ("conv", "fc"):
        kind = "conv" if scope[-1] == "conv" else kind
        scope = scope[:-1]
    suffix, kind = (kernel, kind) if leaf == "kernel" else ("bias", "small")
    return layers["/".join(scope)][0] + join + suffix, kind


def golden_variables(source: str, shapes: dict) -> dict:
    """Return variables with the shapes in `shapes`, filled with the source's arrays."""

    def visit(tree: dict, scope: list[str]) -> dict:
        filled = {}
        for key, value in tree.items():
            if isinstance(value, dict):
                filled[key] = visit(value, [*scope, key])
                continue
            name, kind = _source_leaf(source, scope, key, len(value.shape))
            shape = value.shape
            if source.startswith("keras") or len(shape) == 1:
                filled[key] = fill(source, name, shape, kind=kind)
            elif len(shape) == 2:
                filled[key] = fill(source, name, shape[::-1], kind=kind, out_axis=0).T
            else:  # HWIO from torch's OIHW
                oihw = (shape[3], shape[2], shape[0], shape[1])
                x = fill(source, name, oihw, kind=kind, out_axis=0)
                filled[key] = x.transpose(2, 3, 1, 0)
        return filled

    return {collection: visit(tree, []) for collection, tree in shapes.items()}
