# SPDX-License-Identifier: Apache-2.0
"""Training batches depend on seed and step alone; evaluation counts each image once."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import simplejpeg

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.batches import eval_batches, train_batches
from inception_jax.data.crops import eval_views
from inception_jax.data.decoding import UnreadableImage
from inception_jax.data.open_source import open_source
from inception_jax.data.sampling import example_names, train_positions
from inception_jax.data.source import Example, Source

HOSTS = [1, 2, 4]
AS_IS = PreprocessSpec((2, 3, 1), crop_fraction=1.0)
SMALL = PreprocessSpec((10, 12, 3))


def source(examples: Sequence[Example]) -> Source:
    return Source("test", "train", tuple(map(str, range(1000))), examples)


def flat(n: int) -> Source:
    """Return n images of 2x3x1 that differ in grey level and label."""
    images = [np.full((2, 3, 1), i, np.uint8) for i in range(n)]
    return source(
        [{"image": im, "label": i, "name": f"#{i}"} for i, im in enumerate(images)]
    )


def photos(n: int, bad: Sequence[int] = ()) -> Source:
    """Return n JPEG files of noise; those at `bad` are unreadable."""
    rng = np.random.default_rng(0)
    files = [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (20, 16 + i % 5, 3), np.uint8))
        for i in range(n)
    ]
    return source(
        [
            {"image": b"junk" if i in bad else file, "label": i, "name": f"#{i}.jpg"}
            for i, file in enumerate(files)
        ]
    )


def batches_of(a_source: Source, **options):
    """Return training batches of 8, by default without augmentation."""
    spec = SMALL if isinstance(a_source.examples[0]["image"], bytes) else AS_IS
    options = {"preprocess": spec, "augment": None, "batch_size": 8, "seed": 3} | options
    return train_batches(a_source, **options)


def labels(batches) -> list[int]:
    return np.concatenate([batch["label"] for batch in batches]).tolist()


def assert_same(first: dict, second: dict) -> None:
    assert set(first) == set(second)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


# Training batches


def test_batch_holds_the_pixels():
    batch = batches_of(flat(103))[5]
    assert set(batch) == {"image", "label"}
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (8, 2, 3, 1))
    assert batch["label"].dtype == np.int32
    for image, label in zip(batch["image"], batch["label"], strict=True):
        assert (image == label).all()


def test_color_seeds_exist_only_for_color():
    batch = batches_of(photos(9), augment=AugmentConfig())[0]
    assert set(batch) == {"image", "label", "color_seed"}
    assert (batch["color_seed"].dtype, batch["color_seed"].shape) == (np.uint32, (8,))
    assert batch["image"].shape == (8, 10, 12, 3)
    without = AugmentConfig(color=False)
    assert set(batches_of(photos(9), augment=without)[0]) == {"image", "label"}


def test_without_augmentation_views_are_those_of_evaluation():
    train = batches_of(photos(8))[0]
    (held_out,) = eval_batches(photos(8), preprocess=SMALL, batch_size=8)
    for image, label in zip(train["image"], train["label"], strict=True):
        np.testing.assert_array_equal(image, held_out["image"][label])


@pytest.mark.parametrize("augment", [None, AugmentConfig()], ids=["plain", "augmented"])
@pytest.mark.parametrize("num_hosts", HOSTS[1:])
def test_global_batch_is_the_same_for_any_number_of_hosts(num_hosts, augment):
    files = photos(103, bad=[5, 6])

    def hosts(n: int):
        options = {"augment": augment, "on_bad_image": "skip", "num_hosts": n}
        return [batches_of(files, host=host, **options) for host in range(n)]

    (single,), several = hosts(1), hosts(num_hosts)
    for t in (0, 1, 12, 13, 1_000_000):  # 12 reaches into the second epoch
        whole, skipped = single[t], []
        for host, batches in enumerate(several):
            part = batches[t]
            skipped += part["skipped"]
            for key in set(part) - {"skipped"}:
                np.testing.assert_array_equal(
                    part[key], np.split(whole[key], num_hosts)[host]
                )
        assert sorted(skipped) == sorted(whole["skipped"])


def test_batch_is_a_function_of_seed_and_step():
    batches = batches_of(photos(103), augment=AugmentConfig())
    in_order = [batches[t] for t in range(20)]
    resumed = batches_of(photos(103), augment=AugmentConfig())
    for t in (17, 4, 18):
        assert_same(resumed[t], in_order[t])


@pytest.mark.parametrize("num_hosts", HOSTS)
def test_positions_match_the_loaded_examples(num_hosts):
    """They are computed without reading an example; labels of `flat` are positions."""
    counted = source(Counted(flat(103).examples))
    Counted.accessed.clear()  # the run-time type check reads an example
    hosts = [batches_of(flat(103), num_hosts=num_hosts, host=h) for h in range(num_hosts)]
    for t in (0, 1, 12, 13, 25, 1_000_000):  # 12 and 25 reach into the next epoch
        positions = train_positions(counted, t, batch_size=8, seed=3)
        for host, batches in enumerate(hosts):
            part = np.split(np.array(positions), num_hosts)[host]
            assert part.tolist() == batches[t]["label"].tolist()
    assert positions != train_positions(counted, t, batch_size=8, seed=4)
    assert not Counted.accessed


class Counted(list):
    """Examples that record which of them were accessed."""

    accessed: ClassVar[list[int]] = []

    def __getitem__(self, index: int) -> Example:
        self.accessed.append(index)
        return super().__getitem__(index)


def test_names_of_examples(photos, tmp_path):
    """An example that has become unreadable gets its position as name."""
    folder = open_source(f"folder:{photos}", "train")
    (photos / "train" / "b" / "b0.jpg").unlink()
    assert example_names(folder, [12, 11, 0]) == ["#12", "a/a9.jpg", "a/a0.jpg"]


def test_batch_depends_on_the_seed():
    # With one example, only the augmentation can differ.
    first, second = (
        batches_of(photos(1), batch_size=1, augment=AugmentConfig(), seed=seed)[0]
        for seed in (3, 4)
    )
    assert (first["image"] != second["image"]).any()
    assert first["color_seed"] != second["color_seed"]
    first, second = (
        batches_of(flat(103), seed=seed)[0]["label"].tolist() for seed in (3, 4)
    )
    assert first != second


def test_each_epoch_visits_each_example_once_in_a_new_order():
    # 8 epochs of 103 examples are 103 batches of 8.
    def epochs(seed: int) -> list[list[int]]:
        batches = batches_of(flat(103), seed=seed)
        return np.reshape(labels(batches[t] for t in range(103)), (8, 103)).tolist()

    orders = epochs(3) + epochs(4)
    assert all(sorted(order) == list(range(103)) for order in orders)
    # Nor between seeds: epoch 0 of seed 4 must differ from epoch 1 of seed 3.
    assert len({tuple(order) for order in [*orders, range(103)]}) == 17


def test_augmentation_differs_between_examples_and_epochs():
    same = source(photos(1).examples * 4)
    batches = batches_of(same, batch_size=4, augment=AugmentConfig())
    images = np.concatenate([batches[t]["image"].reshape(4, -1) for t in range(3)])
    assert len(np.unique(images, axis=0)) == 12
    assert len({int(seed) for t in range(3) for seed in batches[t]["color_seed"]}) == 12


def test_boxes_do_not_depend_on_color():
    with_color, without = (
        batches_of(photos(9), augment=AugmentConfig(color=color))[3]["image"]
        for color in (True, False)
    )
    np.testing.assert_array_equal(with_color, without)


def test_order_equals_that_of_earlier_runs():
    # If this fails, earlier runs can no longer be resumed or reproduced.
    batches = batches_of(flat(103), seed=0)
    assert batches[0]["label"].tolist() == [96, 77, 31, 79, 9, 70, 28, 83]
    assert batches[13]["label"].tolist() == [72, 1, 95, 41, 99, 3, 73, 88]
    batch = batches_of(photos(103), seed=0, augment=AugmentConfig())[13]
    assert batch["color_seed"][:2].tolist() == [1217868557, 690773670]
    np.testing.assert_allclose(batch["image"][:2, 5, 6, 0], [190, 111], atol=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "num_hosts": 4}, "batch_size 6 is not a positive multiple of"),
        ({"batch_size": 0}, "batch_size 0 is not a positive multiple of 1 hosts"),
        ({"batch_size": 8, "num_hosts": 2, "host": 2}, "host must be from 0 to 1, got 2"),
        ({"batch_size": 8, "host": -1}, "host must be from 0 to 0, got -1"),
    ],
)
def test_wrong_splits_over_hosts_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        batches_of(flat(103), **options)
    with pytest.raises(ValueError, match=message):
        eval_batches(flat(103), preprocess=AS_IS, **options)


def test_wrong_options_are_errors():
    with pytest.raises(ValueError, match="batch_size 104 exceeds the 103 examples"):
        batches_of(flat(103), batch_size=104)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"from 0 to 2\*\*32 - 1, got {seed}"):
            batches_of(flat(103), seed=seed)
    with pytest.raises(ValueError, match="only in images of 3 channels, got image_shape "):
        batches_of(flat(103), augment=AugmentConfig())
    with pytest.raises(ValueError, match="views must be 1, 10, 12 or 144, got 2"):
        eval_batches(flat(103), preprocess=AS_IS, batch_size=8, views=2)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    message = r'grain is missing: pip install "inception_jax\[data\]"'
    with pytest.raises(ImportError, match=message):
        batches_of(flat(103))


# Unreadable images


def test_bad_image_is_an_error_that_names_it():
    with pytest.raises(UnreadableImage, match=r"'#2.jpg' cannot be read: it starts with"):
        batches_of(photos(8, bad=[2]))[0]
    with pytest.raises(UnreadableImage, match=r"'#2.jpg' cannot be read"):
        list(eval_batches(photos(8, bad=[2]), preprocess=SMALL, batch_size=4))


def test_skipping_uses_the_next_readable_example():
    good = batches_of(photos(8))[0]
    batch = batches_of(photos(8, bad=[2, 3, 7]), on_bad_image="skip")[0]
    replacement = {2: 4, 3: 4, 7: 0}
    expected = [replacement.get(label, label) for label in good["label"]]
    assert batch["label"].tolist() == expected
    for image, label in zip(batch["image"], batch["label"], strict=True):
        np.testing.assert_array_equal(image, good["image"][good["label"] == label][0])
    # Example 2 is replaced after skipping 2 and 3, example 3 after skipping itself.
    assert sorted(error[:8] for error in batch["skipped"]) == [
        "'#2.jpg'",
        "'#3.jpg'",
        "'#3.jpg'",
        "'#7.jpg'",
    ]
    assert batches_of(photos(8), on_bad_image="skip")[0]["skipped"] == []


def test_other_examples_keep_their_augmentation():
    good = batches_of(photos(8), augment=AugmentConfig())[2]
    batch = batches_of(photos(8, bad=[2]), augment=AugmentConfig(), on_bad_image="skip")[2]
    np.testing.assert_array_equal(batch["color_seed"], good["color_seed"])
    others = good["label"] != 2
    np.testing.assert_array_equal(batch["image"][others], good["image"][others])


def test_skipping_ends_if_no_image_is_readable():
    none = photos(8, bad=range(8))
    with pytest.raises(UnreadableImage, match=r"8 images in a row cannot be read; the"):
        batches_of(none, on_bad_image="skip")[0]
    many = source(none.examples * 100)
    with pytest.raises(UnreadableImage, match=r"100 images in a row cannot be read; "):
        batches_of(many, on_bad_image="skip")[0]


# Evaluation batches


@pytest.mark.parametrize("num_hosts", HOSTS)
@pytest.mark.parametrize("n", [1, 7, 8, 97, 103, 104])
def test_evaluation_counts_every_example_once(n, num_hosts):
    options = {"preprocess": AS_IS, "batch_size": 8, "num_hosts": num_hosts}
    hosts = [list(eval_batches(flat(n), host=host, **options)) for host in range(num_hosts)]
    assert {len(batches) for batches in hosts} == {-(-n // 8)}
    counted = []
    for step in zip(*hosts, strict=True):
        for batch in step:
            assert set(batch) == {"image", "label", "mask", "index"}
            assert batch["image"].shape == (8 // num_hosts, 2, 3, 1)
            assert batch["image"].dtype == np.uint8
            assert batch["mask"].dtype == np.float32
            assert batch["label"].dtype == batch["index"].dtype == np.int32
            padding = batch["mask"] == 0
            assert not batch["image"][padding].any()
            assert not batch["label"][padding].any()
            assert (batch["index"][padding] == -1).all()
            for key in ("index", "label"):
                pixels = batch["image"][~padding, 0, 0, 0]
                np.testing.assert_array_equal(pixels, batch[key][~padding])
        # Concatenate the parts of the hosts.
        label, mask = (
            np.concatenate([batch[key] for batch in step]) for key in ("label", "mask")
        )
        counted += label[mask == 1].tolist()
        assert set(mask.tolist()) <= {0.0, 1.0}
    assert counted == list(range(n))
    assert sum(batch["mask"].sum() for batches in hosts for batch in batches) == n


def test_evaluation_skips_unreadable_images():
    bad = photos(7, bad=[0, 5])
    batches = list(eval_batches(bad, preprocess=SMALL, batch_size=4, on_bad_image="skip"))
    mask, index = (np.concatenate([b[key] for b in batches]) for key in ("mask", "index"))
    assert mask.tolist() == [0, 1, 1, 1, 1, 0, 1, 0]
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    assert not batches[0]["image"][0].any()
    assert [[error[:8] for error in b["skipped"]] for b in batches] == [
        ["'#0.jpg'"],
        ["'#5.jpg'"],
    ]


def test_evaluation_on_several_views():
    square = dataclasses.replace(SMALL, image_shape=(10, 10, 3))
    files = photos(5)
    batches = list(eval_batches(files, preprocess=square, batch_size=2, views=12))
    assert [batch["image"].shape for batch in batches] == [(2, 12, 10, 10, 3)] * 3
    pixels = simplejpeg.decode_jpeg(files.examples[3]["image"])
    np.testing.assert_array_equal(batches[1]["image"][1], eval_views(pixels, square, 12))
    assert batches[2]["mask"].tolist() == [1, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_get_the_requested_channels(channels):
    spec = PreprocessSpec((10, 12, channels))
    for files in (photos(8), flat(8)):
        (batch,) = eval_batches(files, preprocess=spec, batch_size=8)
        assert batch["image"].shape == (8, 10, 12, channels)
        assert batch["image"][7].any()


def test_from_a_data_set_of_tfds(data_dir):
    train, held_out = (
        open_source("imagenet2012", split, data_dir) for split in ("train", "eval")
    )
    batch = batches_of(train, augment=AugmentConfig())[0]
    assert set(batch["label"]) <= {0, 1, 2, 999}
    (batch,) = eval_batches(held_out, preprocess=SMALL, batch_size=8)
    # The classes of this data set differ in brightness.
    kinds = batch["image"].mean((1, 2, 3)) // 60
    assert [(0, 1, 2, 999)[int(kind)] for kind in kinds] == batch["label"].tolist()
