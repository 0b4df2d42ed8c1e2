# SPDX-License-Identifier: Apache-2.0
"""Prepared data sets of TFDS are read without TensorFlow and without the network."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import simplejpeg

from inception_jax.data.decoding import decode
from inception_jax.data.open_source import open_source
from tests.data.offline import WITHOUT_TENSORFLOW_AND_NETWORK
from tests.data.tiny_imagenet import LABELS, examples

ROOT = Path(__file__).parents[2]


def error_of(name: str, split: str, data_dir: str) -> str:
    with pytest.raises(ValueError, match=r".") as e:
        open_source(name, split, data_dir)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    ("split", "stored", "size"), [("train", "train", 24), ("eval", "validation", 8)]
)
def test_imagenet2012(data_dir, split, stored, size):
    source = open_source("imagenet2012", split, data_dir)
    assert len(source) == size
    assert (len(source.class_names), source.class_names[:2]) == (
        1000,
        ("n01440764", "n01443537"),
    )
    expected = {e["file_name"]: e for _, e in examples(stored, size)}
    assert {example["name"] for example in source.examples} == set(expected)
    for example in source.examples:
        assert example["image"] == expected[example["name"]]["image"], "still encoded"
        assert type(example["label"]) is int
        assert example["label"] == expected[example["name"]]["label"]
    assert {example["label"] for example in source.examples} == set(LABELS)
    first = source.examples[0]
    pixels = decode(first["image"], first["name"], 3)
    assert (pixels == simplejpeg.decode_jpeg(first["image"])).all()


def test_parts_of_splits(data_dir):
    names = [e["name"] for e in open_source("imagenet2012", "eval", data_dir).examples]
    for split, expected in (
        ("eval[:3]", names[:3]),
        ("eval[50%:]", names[4:]),
        ("validation[2:5]", names[2:5]),
        ("eval[:1]+eval[7:]", [names[0], names[7]]),
    ):
        source = open_source("imagenet2012", split, data_dir)
        assert [example["name"] for example in source.examples] == expected
        assert source.split == split


def test_a_pickled_source_is_small(data_dir):
    source = open_source("imagenet2012:5.1.0", "eval", data_dir)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.examples[5] == source.examples[5]
    assert len(pickle.dumps(source.examples)) < 60_000  # with 1000 class names


OFFLINE = (
    WITHOUT_TENSORFLOW_AND_NETWORK
    + """
from inception_jax.data.open_source import open_source
source = open_source("imagenet2012", "eval", sys.argv[1])
print(len(source), source.examples[0]["label"] in source.class_names or len(source))
for name in ("cifar10", "imagenet", "huggingface:mnist", "no_such_set", "mnist:9.9.9"):
    try:
        open_source(name, "train", sys.argv[1])
    except ValueError as e:
        print(name in str(e))
assert "tensorflow" not in sys.modules
assert not attempts, attempts
"""
)


def test_neither_tensorflow_nor_network(data_dir):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, data_dir],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "8 8\n" + "True\n" * 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", "'cifar10' is not prepared in {}; to see what is missing and how"),
        ("cifar10", "prepare it, run inception-jax data check cifar10"),
        ("imagenet2012:9.9.9", "'imagenet2012:9.9.9' is not prepared in"),
        ("imagenet", "did you mean 'imagenet2012' or"),
        ("imagenete", "'imagenette'"),
        ("folder", "'folder' names no folder"),
        ("sythetic", "did you mean 'synthetic'"),
        ("digits2", "did you mean 'digits'"),
        ("a b", "unknown source 'a b'; expected digits, synthetic, folder:DIR or the name"),
        ("", "unknown source ''; expected"),
        ("kaggle:cats", "unknown source 'kaggle:cats'; expected"),
    ],
)
def test_unknown_names_and_unprepared_data(data_dir, name, words):
    assert words.format(data_dir) in error_of(name, "train", data_dir)


def test_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"not prepared in {tmp_path}/nothing;" in error_of(
        "cifar10", "train", "~/nothing"
    )


def test_unknown_splits(data_dir):
    for split in ("test", "train[", "", "eval[8:]", "train[5:5]"):
        message = error_of("imagenet2012", split, data_dir)
        assert f"unknown or empty split {split!r} of 'imagenet2012'; expected " in message
        assert "train, validation or a part such as 'train[:100]'" in message


@pytest.fixture
def changed(data_dir, tmp_path):
    """Return a function that changes dataset_info.json in a copy of tiny imagenet2012."""
    shutil.copytree(Path(data_dir) / "imagenet2012", tmp_path / "imagenet2012")
    file = tmp_path / "imagenet2012/5.1.0/dataset_info.json"

    def change(**entries) -> str:
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))
        return str(tmp_path)

    return change


def test_other_file_formats(changed):
    folder = changed(fileFormat="tfrecord")
    message = error_of("imagenet2012", "train", folder)
    assert (
        f"prepared in {folder}/imagenet2012/5.1.0 as tfrecord; expected array_rec"
        in message
    )
    assert message.endswith("inception-jax data check imagenet2012")


def test_other_features(changed):
    features = {"supervisedKeys": {"tuple": {"items": [{"featureKey": k} for k in "ab"]}}}
    message = error_of("imagenet2012", "train", changed(**features))
    assert (
        "is not a data set of images with one class label each; its features are "
        in message
    )
    assert "image" in message


@pytest.mark.parametrize(
    "renamed",
    [{}, {"validation": "test"}, {"train": "test"}],  # 24 are in train
)
def test_eval_is_validation_or_else_test(changed, renamed):
    folder = Path(changed()) / "imagenet2012/5.1.0"
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    for old, new in renamed.items():
        for split in splits:
            split["name"] = new if split["name"] == old else split["name"]
        for shard in folder.glob(f"*-{old}.*"):
            shard.rename(folder / shard.name.replace(old, new))
    assert len(open_source("imagenet2012", "eval", changed(splits=splits))) == 8


def test_no_eval(changed):
    folder = Path(changed()) / "imagenet2012/5.1.0"
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    only = [split for split in splits if split["name"] == "train"]
    message = error_of("imagenet2012", "eval", changed(splits=only))
    assert "split 'eval' of 'imagenet2012'; expected train or a part" in message
