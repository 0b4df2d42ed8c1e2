# SPDX-License-Identifier: Apache-2.0
"""Every array of a supported library has a counterpart here, in both directions."""

import hashlib
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest

from inception_jax.config import PreprocessSpec
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.weights import convert
from inception_jax.weights.import_file import identify_layout
from inception_jax.weights.layouts import (
    FACENET,
    FACENET_INPUT,
    LAYOUTS,
    Layout,
    array_names,
    find_layout,
    ignored_names,
)
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Origin

# For the libraries' own models: the number of arrays, and the first half of the SHA-256 of
# the sorted lines "NAME", and of "NAME [SHAPE]". timm 1.0.31, keras 3.15.1, facenet-pytorch
# 2.6.0; slim's inception_v4.py and inception_resnet_v2.py with auxiliary heads and 1001
# classes, and facenet's inception_resnet_v1.py with 512 features, run by tf_slim 1.1.0.
LISTS = {
    ("timm", "inception_v4"): (
        *(896, "2338bc685a4c10274f299cfadb390c90", "9761b717753f2598d3b372c5ac22cd49"),
    ),
    ("timm", "inception_resnet_v2"): (
        *(1306, "57d24ac8e5642722a56dc18f9e665bac", "56ff76c2d99b5a130b7067c7cec02bf1"),
    ),
    ("slim", "inception_v4"): (
        *(608, "175f0bf0bb1edeb17d583185751dfd7f", "ab6426982d1c21dfa34d712b50de001d"),
    ),
    ("slim", "inception_resnet_v2"): (
        *(908, "e561482179c9f57a8fda253bc6debe19", "74a2a942174f8de7ae8627a29175a760"),
    ),
    ("keras", "inception_resnet_v2"): (
        *(898, "9de7742a48886a89702af776be4fa3b2", "8540a5552b958476e97047d11574c266"),
    ),
    ("facenet-pytorch", FACENET): (
        *(714, "7812df03c4ee69b6c43f66b652e065f3", "50361ccebda63b87815dc313f518ffe7"),
    ),
    ("facenet", FACENET): (
        *(490, "fc5e7dedb79c5363c8c9142c58333821", "2810eaea695982226ce03bb7426ddc4f"),
    ),
}
AUX = ("params/AuxLogits/", "batch_stats/AuxLogits/")


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:32]


def absent(layout: Layout) -> set[str]:
    """Return parts of the network that the models of LISTS lack."""
    return {"Logits"} if layout.network == FACENET else set()


@pytest.mark.parametrize(("source", "network"), LISTS)
def test_names_are_those_of_the_libraries_own_models(source, network):
    layout = find_layout(source, network)
    names = [*array_names(layout, absent(layout)).values()]
    if layout.convention.counts_batches:
        names += ignored_names(layout)
    count, expected, _ = LISTS[source, network]
    assert len(names) == count
    assert digest(f"{name}\n" for name in names) == expected


@cache
def shapes_of(network: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's arrays, with its auxiliary head if it has one."""
    facenet = network == FACENET
    card = Card(
        network,
        FACENET_INPUT if facenet else PreprocessSpec(),
        () if facenet else tuple(map(str, range(1000))),
        Origin("", ""),
        aux_head=not facenet,
    )
    return {
        name: tuple(x.shape) for name, x in flatten_with_paths(Model(card).shapes).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("source", "network"), LISTS)
def test_shapes_are_those_of_the_libraries_own_models(source, network):
    layout = find_layout(source, network)
    ours = shapes_of(network)
    names = array_names(layout, absent(layout))
    theirs = {}
    for name, x in names.items():
        shape = ours[name]
        if layout.background and name.startswith(convert.CLASSIFIERS):
            shape = (*shape[:-1], shape[-1] + 1)
        theirs[x] = list(convert.library_shape(layout, shape))
    if layout.convention.counts_batches:
        theirs |= {name: [] for name in ignored_names(layout)}
    lines = (f"{name} {shape}\n" for name, shape in theirs.items())
    assert digest(lines) == LISTS[source, network][2]
    # The library can lack gamma and the auxiliary head only.
    rest = ours.keys() - names.keys()
    assert all(x.endswith("/bn/scale") or x.startswith(AUX) for x in rest)


def small(layout: Layout, classes: int = 3) -> dict[str, np.ndarray]:
    """Return the library's arrays with random values and a different size on each axis."""
    rng = np.random.default_rng(0)
    theirs = {}
    for ours, name in array_names(layout).items():
        rank = 1
        if ours.endswith("/kernel"):
            rank = 2 if ours.startswith(convert.CLASSIFIERS) or "/fc/" in ours else 4
        first = layout.convention.output_first
        shape = (2, 3, 4, 5)[:rank] if first else (2, 3, 4, 5)[-rank:]
        if ours.startswith(convert.CLASSIFIERS):
            shape = (4, classes)[-rank:]
            shape = shape[::-1] if first else shape
        theirs[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return theirs


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_round_trip_preserves_the_arrays(layout):
    theirs = small(layout)
    ours = convert.from_library(layout, theirs)
    assert len(ours) == len(theirs)
    back = convert.to_library(layout, ours)
    for name, x in theirs.items():
        np.testing.assert_array_equal(back.pop(name), x, strict=True, err_msg=name)
    assert all(x.dtype == np.int64 and x.shape == () and x == 0 for x in back.values())
    counts = layout.convention.counts_batches
    assert len(back) == sum(name.endswith("/bn/mean") for name in ours) * counts
    # Names to ignore are accepted, others are not.
    extras = {"global_step": np.zeros(())} if layout.convention.extras else back
    assert convert.from_library(layout, theirs | extras).keys() == ours.keys()
    with pytest.raises(ValueError, match=r"unexpected: global_steps\.$"):
        convert.from_library(layout, theirs | {"global_steps": np.zeros(())})


def test_only_kernels_are_transposed():
    layout = find_layout("facenet-pytorch", FACENET)
    theirs = small(layout)
    ours = convert.from_library(layout, theirs)
    kernel = ours["params/block35_2/Branch_1/Conv2d_0b_3x3/conv/kernel"]
    np.testing.assert_array_equal(
        kernel[3, 1, 2, 0], theirs["repeat_1.1.branch1.1.conv.weight"][0, 2, 3, 1]
    )
    fc = ours["params/Bottleneck/fc/kernel"]
    np.testing.assert_array_equal(fc, theirs["last_linear.weight"].T)
    assert kernel.shape == (4, 5, 3, 2)
    for name, source in {
        "params/Bottleneck/bn/scale": "last_bn.weight",
        "params/Bottleneck/bn/bias": "last_bn.bias",
        "batch_stats/Bottleneck/bn/mean": "last_bn.running_mean",
        "batch_stats/Bottleneck/bn/var": "last_bn.running_var",
        "params/Logits/bias": "logits.bias",
        "params/Block8/Conv2d_1x1/bias": "block8.conv2d.bias",
    }.items():
        np.testing.assert_array_equal(ours[name], theirs[source], err_msg=name)


def test_the_background_class_is_removed_from_both_classifiers():
    layout = find_layout("slim", "inception_v4")
    theirs = small(layout, classes=1001)
    ours = convert.from_library(layout, theirs)
    assert convert.has_background(layout, theirs)
    assert convert.num_classes(layout, theirs) == 1000
    for part, scope in (
        ("Logits", "Logits/Logits"),
        ("AuxLogits/Logits", "AuxLogits/Aux_logits"),
    ):
        for ours_leaf, leaf in (("kernel", "weights"), ("bias", "biases")):
            expected = theirs[f"InceptionV4/{scope}/{leaf}"][..., 1:]
            np.testing.assert_array_equal(ours[f"params/{part}/{ours_leaf}"], expected)
    assert not convert.has_background(layout, small(layout, classes=1000))
    timm = find_layout("timm", "inception_v4")
    assert not convert.has_background(timm, small(timm, classes=1001))


def test_the_background_class_decides_between_equal_names():
    timm, cadene = (find_layout(source, "inception_v4") for source in ("timm", "cadene"))
    assert array_names(timm) == array_names(cadene)
    assert identify_layout(small(timm, classes=1001))[0] == cadene
    assert identify_layout(small(timm, classes=1000))[0] == timm


def test_gamma_is_multiplied_in_where_a_source_has_none():
    layout = find_layout("facenet", FACENET)
    ours = convert.from_library(layout, small(layout))
    rng = np.random.default_rng(1)
    gammas = {
        name.removesuffix("bias") + "scale": rng.normal(size=5).astype(np.float32)
        for name in ours
        if name.endswith("/bn/bias")
    }
    theirs = convert.to_library(layout, ours | gammas)
    for layer, linear, scope in (
        ("block17_3/Branch_0/Conv2d_1x1", "conv", "Repeat_1/block17_3/Branch_0/Conv2d_1x1"),
        ("Bottleneck", "fc", "Bottleneck"),
    ):
        found = [theirs[f"InceptionResnetV1/{scope}/{leaf}"] for leaf in LEAVES]
        arrays = [ours[f"params/{layer}/{linear}/kernel"], ours[f"params/{layer}/bn/bias"]]
        arrays += [ours[f"batch_stats/{layer}/bn/{x}"] for x in ("mean", "var")]
        gamma = gammas[f"params/{layer}/bn/scale"]
        assert np.abs(normalised(*arrays) - normalised(*found)).max() > 0.1
        np.testing.assert_allclose(
            normalised(*found), normalised(*arrays, gamma), rtol=1e-4, atol=1e-5
        )


LEAVES = (
    *("weights", "BatchNorm/beta", "BatchNorm/moving_mean"),
    "BatchNorm/moving_variance",
)


def normalised(kernel, beta, mean, variance, gamma=1.0) -> np.ndarray:
    """Apply a layer and its batch norm to a patch as large as its kernel."""
    patch = np.random.default_rng(2).normal(size=kernel.shape[:-1])
    x = np.tensordot(patch, kernel, patch.ndim)
    return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta


def test_a_missing_gamma_is_1_and_the_auxiliary_head_is_left_out():
    slim, timm = (find_layout(source, "inception_v4") for source in ("slim", "timm"))
    theirs = convert.to_library(timm, convert.from_library(slim, small(slim)))
    np.testing.assert_array_equal(theirs["features.0.bn.weight"], np.ones(5, np.float32))
    assert not any("Aux" in name for name in theirs)


def test_missing_and_unexpected_arrays_are_named():
    layout = find_layout("timm", "inception_v4")
    theirs = small(layout)
    theirs["features.0.conv.kernel"] = theirs.pop("features.0.conv.weight")
    with pytest.raises(
        ValueError,
        match=r"^the arrays are not those of timm's inception_v4; missing: "
        r"features\.0\.conv\.weight; unexpected: features\.0\.conv\.kernel\.$",
    ):
        convert.from_library(layout, theirs)
    ours = convert.from_library(layout, small(layout))
    del ours["batch_stats/Stem/Conv2d_1a_3x3/bn/var"]
    with pytest.raises(ValueError, match=r"missing: batch_stats/Stem/Conv2d_1a_3x3/bn/var"):
        convert.to_library(layout, ours)
    with pytest.raises(ValueError, match="does not have inception_v4; supported are"):
        find_layout("keras", "inception_v4")


def test_an_optional_part_must_be_complete():
    layout = find_layout("slim", "inception_resnet_v2")
    theirs = small(layout)
    aux = [name for name in theirs if "/AuxLogits/" in name]
    assert len(aux) == 10
    without = {name: x for name, x in theirs.items() if name not in aux}
    assert not any("AuxLogits" in name for name in convert.from_library(layout, without))
    with pytest.raises(ValueError, match=r"missing: \S+, \S+, \S+, \S+, \S+ and 4 more\.$"):
        convert.from_library(layout, without | {aux[0]: theirs[aux[0]]})
