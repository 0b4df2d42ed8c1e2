# SPDX-License-Identifier: Apache-2.0
"""ImageNet's classes: the ids as TFDS has them, and what people call them."""

from pathlib import Path

import tensorflow_datasets as tfds

from inception_jax.data.imagenet import class_title, imagenet_ids


def test_the_ids_are_those_of_tfds_by_label():
    labels = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    assert imagenet_ids() == tuple(labels.read_text(encoding="utf-8").split())
    assert len(set(imagenet_ids())) == 1000


def test_titles_are_said_of_imagenets_classes_only():
    # By number, as published predictions have them: 207 is the golden retriever of
    # torchvision's and Keras's examples.
    titles = [class_title(name) for name in imagenet_ids()]
    assert titles[0] == "tench, Tinca tinca"
    assert titles[207] == "golden retriever"
    assert titles[281:283] == ["tabby, tabby cat", "tiger cat"]
    assert titles[-1] == "toilet tissue, toilet paper, bathroom tissue"
    assert all(title == title.strip() and title for title in titles)
    for name in ("n00000000", "tench", "daisy", ""):
        assert class_title(name) == name


def test_only_the_two_cranes_share_a_title():
    titles = [class_title(name) for name in imagenet_ids()]
    twice = {title for title in titles if titles.count(title) > 1}
    assert twice == {"crane"}
    assert [i for i, title in enumerate(titles) if title == "crane"] == [134, 517]
