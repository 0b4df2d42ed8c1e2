# SPDX-License-Identifier: Apache-2.0
"""ImageNet's class ids equal those of TFDS, and the titles match published labels."""

from pathlib import Path

import tensorflow_datasets as tfds

from inception_jax.data.imagenet import class_title, imagenet_ids


def test_ids_equal_the_labels_of_tfds():
    labels = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    assert imagenet_ids() == tuple(labels.read_text(encoding="utf-8").split())
    assert len(set(imagenet_ids())) == 1000


def test_only_imagenet_classes_have_titles():
    # By label, as in published predictions: 207 is the golden retriever in the examples of
    # torchvision and Keras.
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
