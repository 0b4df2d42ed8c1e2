# SPDX-License-Identifier: Apache-2.0
"""Synthetic images are reproducible, of ImageNet's size, and show their class."""

import pickle

import numpy as np
import pytest

from inception_jax.data.decoding import decode
from inception_jax.data.open_source import open_source


def pixels(source, index: int) -> np.ndarray:
    example = source.examples[index]
    return decode(example["image"], example["name"], 3)


def test_sizes_and_classes():
    train, held_out = (open_source("synthetic", split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (1_281_167, 50_000)
    assert len(train.class_names) == 1000
    assert train.examples[2345]["label"] == 345
    train, held_out = (open_source("synthetic:4x90", split) for split in ("train", "eval"))
    assert (len(train), len(held_out), len(train.class_names)) == (90, 9, 4)
    assert [train.examples[i]["label"] for i in range(6)] == [0, 1, 2, 3, 0, 1]
    assert train.examples[5]["name"] == "train/5.jpg"
    part = open_source("synthetic:4x90", "train[50%:]")
    assert len(part) == 45
    assert part.examples[0] == train.examples[45]


def test_images_are_as_large_as_those_of_imagenet():
    source = open_source("synthetic", "train")
    shapes = [pixels(source, i).shape for i in range(16)]
    assert len(set(shapes)) > 1
    assert {shape[2] for shape in shapes} == {3}
    assert 350 < np.mean([shape[:2] for shape in shapes]) < 480
    size = np.mean([len(source.examples[i]["image"]) for i in range(16)])
    assert 90_000 < size < 130_000, "ImageNet's mean is 110 kB"


def test_images_are_reproducible_and_distinct():
    train, held_out = (open_source("synthetic:2x20", split) for split in ("train", "eval"))
    again = pickle.loads(pickle.dumps(train))
    images = [source.examples[i]["image"] for source in (train, held_out) for i in range(2)]
    assert [again.examples[i]["image"] for i in (0, 1)] == images[:2]
    assert len(set(images)) == 4
    assert train.examples[0]["image"] != train.examples[2]["image"]


def test_classes_are_distinguishable():
    source = open_source("synthetic:3x30", "train")
    hues = np.array([pixels(source, i).mean((0, 1)) for i in range(12)])
    hues /= hues.sum(axis=1, keepdims=True)
    centers = np.array([hues[label::3].mean(axis=0) for label in range(3)])
    nearest = np.linalg.norm(hues[:, None] - centers, axis=2).argmin(axis=1)
    assert nearest.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize(
    "name",
    ["synthetic:", "synthetic:1x100", "synthetic:3x9", "synthetic:axb", "synthetic:3"],
)
def test_unknown_names(name):
    with pytest.raises(
        ValueError, match=f"unknown source '{name}'; expected synthetic or "
    ):
        open_source(name, "train")


def test_unknown_splits():
    with pytest.raises(
        ValueError, match="unknown split 'test'; expected train, eval or a part"
    ):
        open_source("synthetic", "test")
