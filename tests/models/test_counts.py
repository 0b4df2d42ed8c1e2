# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-accumulates and convolutions, counted in the traced networks.

Nothing is computed: the networks are only traced.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import inception_jax
from inception_jax.models.summary import summarise
from tests.models.tiny import one_block


class Figures(NamedTuple):
    """Counts of one network."""

    gamma_beta: int  # parameters, batch normalisation with gamma and beta
    beta: int  # parameters, with beta alone
    moving: int  # moving means and variances
    macs: int  # multiply-accumulates of convolutions and linear layers, one image
    convolutions: int


FACENET = "inception_resnet_v1_facenet"
AUX = {"num_classes": 1001, "aux_head": True}

# Sources: [1] slim/nets/inception_v4.py and inception_resnet_v2.py, run with tf_slim 1.1.0,
# [2] timm 1.0.31, [3] facenet-pytorch, [4] facenet's inception_resnet_v1.py,
# [5] arithmetic on the figures of arXiv 1602.07261, with a bias on the linear 1x1,
# [6] torchvision 0.29.1.
EXPECTED = {
    # [2], also for MACs and convolutions. Beta alone is "trainable" of Keras's InceptionV3;
    # with the moving averages it gives Keras's "total" of 23,851,784.
    "v3": (
        ("inception_v3", {}, 299),
        Figures(23_834_568, 23_817_352, 34_432, 5_713_216_096, 94),
    ),
    # [2], [6]; beta alone and MACs follow from the shapes of the head.
    "v3, aux head": (
        ("inception_v3", {"aux_head": True}, 299),
        Figures(27_161_264, 27_143_152, 36_224, 5_718_899_296, 96),
    ),
    # [2], [5]; beta alone is [1] less one class.
    "v4": (
        ("inception_v4", {}, 299),
        Figures(42_679_816, 42_648_232, 63_168, 12_253_974_624, 149),
    ),
    # [1], which has 1001 classes because class 0 is the background.
    "v4, aux head": (
        ("inception_v4", AUX, 299),
        Figures(46_041_586, 46_009_106, 64_960, 12_260_479_328, 151),
    ),
    # [5]
    "resnet-v1": (
        ("inception_resnet_v1", {}, 299),
        Figures(22_756_328, 22_742_808, 27_040, 6_206_361_696, 127),
    ),
    # [2]; beta alone is Keras' InceptionResNetV2, "trainable".
    "resnet-v2": (
        ("inception_resnet_v2", {}, 299),
        Figures(55_843_464, 55_813_192, 60_544, 13_155_794_016, 244),
    ),
    # [1]
    "resnet-v2, aux head": (
        ("inception_resnet_v2", AUX, 299),
        Figures(59_213_426, 59_182_258, 62_336, 13_162_503_520, 246),
    ),
    # [5], with 1152 and 2144 for the misprinted 1154 and 2048.
    "resnet-v2 as drawn": (
        ("inception_resnet_v2_paper", {}, 299),
        Figures(32_433_928, 32_417_496, 32_864, 9_257_953_632, 132),
    ),
    # [3]; beta alone is [4].
    "facenet": (
        (FACENET, {}, 160),
        Figures(23_482_624, 23_467_824, 29_600, 1_417_662_304, 132),
    ),
    # [3] with the classes of VGGFace2, and with larger images; MACs by [5].
    "facenet, 8631 classes": (
        (FACENET, {"num_classes": 8631}, 160),
        Figures(27_910_327, 27_895_527, 29_600, 1_422_081_376, 132),
    ),
    "facenet, 299 pixels": (
        (FACENET, {}, 299),
        Figures(23_482_624, 23_467_824, 29_600, 6_307_723_360, 132),
    ),
}


def size_of(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def weighted_layers(jaxpr: Any) -> Iterator[tuple[int, int]]:
    """Yield the output's rank and the MACs of each convolution and matrix multiplication.

    Channels are last, so every weight is used once for each position of the output.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            output, kernel = equation.outvars[0].aval, equation.invars[1].aval
            yield output.ndim, output.size // output.shape[-1] * kernel.size
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from weighted_layers(inner)


def images(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


@pytest.mark.parametrize(("arguments", "expected"), EXPECTED.values(), ids=EXPECTED)
def test_figures(arguments, expected):
    name, options, size = arguments
    network = inception_jax.create(name, **options)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    forward = partial(network.init_with_output, train=True)
    trace, (_, variables) = jax.make_jaxpr(forward, return_shape=True)(rngs, images(size))
    layers = list(weighted_layers(trace.jaxpr))
    by_name: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        by_name[path[-1].key] += leaf.size
    counted = Figures(
        gamma_beta=by_name.total(),
        beta=by_name.total() - by_name["scale"],
        moving=size_of(variables["batch_stats"]),
        macs=sum(macs for _, macs in layers),
        convolutions=sum(rank == 4 for rank, _ in layers),
    )
    assert counted == expected


def test_summary_leaves_the_aux_head_out():
    """A summary describes inference, which does not use it."""
    spec = one_block(image_shape=(34, 34, 1))
    spec = replace(spec, stages=(replace(spec.stages[0], role="B"),))
    summaries = [
        summarise(inception_jax.create(spec, aux_head=aux)) for aux in (False, True)
    ]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("key", ["v3", "v4", "resnet-v2", "facenet"])
def test_parameters_without_gamma(key):
    (name, options, size), expected = EXPECTED[key]
    network = inception_jax.create(name, **options, bn_scale=False)
    variables = jax.eval_shape(network.init, jax.random.key(0), images(size))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    assert not [path for path in paths if path[-1].key == "scale"]
    assert size_of(variables["params"]) == expected.beta
    assert size_of(variables["batch_stats"]) == expected.moving
