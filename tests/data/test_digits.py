# SPDX-License-Identifier: Apache-2.0
"""The digits equal scikit-learn's and survive interrupted and concurrent preparation."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from inception_jax.data import digits
from inception_jax.data.open_source import open_source
from tests.data.offline import WITHOUT_TENSORFLOW_AND_NETWORK

ROOT = Path(__file__).parents[2]


def open_digits(split: str, data_dir: str) -> list:
    return open_source("digits", split, data_dir).examples


def run(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_digits_equal_scikit_learn_s(data_dir):
    expected = load_digits()
    train, test = (open_digits(split, data_dir) for split in ("train", "test"))
    assert (len(train), len(test)) == (1500, 297)
    images = np.stack([record["image"] for record in [*train, *test]])
    assert (images.dtype, images.shape) == (np.uint8, (1797, 8, 8, 1))
    assert (images.min(), images.max()) == (0, 255)
    levels = np.rint(images[..., 0] / 255 * 16)
    np.testing.assert_array_equal(levels, expected.images)
    assert [record["label"] for record in [*train, *test]] == expected.target.tolist()
    assert all(type(record["label"]) is int for record in train)
    assert train[3]["name"] == "digits train #3"
    source = open_source("digits", "eval", data_dir)
    assert source.class_names == tuple("0123456789")
    assert all(
        (a["image"] == b["image"]).all() for a, b in zip(source.examples, test, strict=True)
    )


def test_a_part_of_a_split(data_dir):
    part = open_digits("train[10:13]", data_dir)
    assert [record["label"] for record in part] == load_digits().target[10:13].tolist()


OFFLINE = (
    WITHOUT_TENSORFLOW_AND_NETWORK
    + """
import random
random.seed(0)
from inception_jax.data.open_source import open_source
heavy = {"tensorflow_datasets", "grain", "sklearn", "PIL", "cv2", "array_record"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
print(len(open_source("digits", "train")), len(open_source("digits", "test")))
assert "tensorflow" not in sys.modules
assert not attempts, attempts
"""
)


def test_two_processes_prepare_at_once_without_tensorflow_and_network(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    environment = {"TFDS_DATA_DIR": str(folder), "HOME": str(home)}
    with run(OFFLINE, **environment) as first, run(OFFLINE, **environment) as second:
        for process in (first, second):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert out == "1500 297\n", "nothing else is printed to stdout"
    assert [path.name for path in (folder / "digits").iterdir()] == ["1.0.0"]
    assert not (home / "tensorflow_datasets").exists()


KILLED = """
import os, signal
from inception_jax.data import digits
from inception_jax.data.open_source import open_source

def examples(examples=digits.digit_examples):
    for i, example in enumerate(examples()):
        if i == 1600:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example

digits.digit_examples = examples
open_source("digits", "train", os.environ["FOLDER"])
"""


def test_a_killed_preparation_is_repeated(tmp_path):
    with run(KILLED, FOLDER=str(tmp_path)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    (leftover,) = (tmp_path / "digits").iterdir()
    assert leftover.name.startswith("incomplete.")
    assert len(open_digits("train", str(tmp_path))) == 1500


@pytest.mark.parametrize("missing", ["digits-test*", "dataset_info.json", "*"])
def test_partial_folder_is_replaced(data_dir, tmp_path, missing):
    folder = tmp_path / "digits/1.0.0"
    shutil.copytree(Path(data_dir) / "digits/1.0.0", folder)
    for path in folder.glob(missing):
        path.unlink()
    assert len(open_digits("test", str(tmp_path))) == 297
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_first_to_finish_wins(tmp_path, monkeypatch):
    shards = tmp_path / "digits/1.0.0"
    written = []

    def overtaken(examples=digits.digit_examples):
        if not written:
            written.append(None)
            digits.prepare_digits(str(tmp_path))
            written[0] = {path.name: path.stat().st_ino for path in shards.iterdir()}
        yield from examples()

    monkeypatch.setattr(digits, "digit_examples", overtaken)
    digits.prepare_digits(str(tmp_path))
    assert {path.name: path.stat().st_ino for path in shards.iterdir()} == written[0]


def test_failed_preparation_leaves_nothing(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(digits, "digit_examples", broken)
    with pytest.raises(RuntimeError, match="disk on fire"):
        open_digits("train", str(tmp_path))
    assert not list((tmp_path / "digits").iterdir())


def test_prepares_once(data_dir, monkeypatch):
    monkeypatch.setattr(digits, "digit_examples", None)
    assert len(open_digits("train", data_dir)) == 1500


def test_tilde_is_the_home_directory(data_dir, monkeypatch):
    monkeypatch.setenv("HOME", data_dir)
    monkeypatch.setattr(digits, "digit_examples", None)
    assert len(open_digits("test", "~")) == 297


def test_images_in_memory_are_read_only(data_dir):
    # Every epoch uses the same array.
    with pytest.raises(ValueError, match="read-only"):
        open_digits("test", data_dir)[0]["image"][...] = 0


def test_unknown_split(data_dir):
    with pytest.raises(
        ValueError, match=r"'validation' of 'digits'; expected train, test or"
    ):
        open_digits("validation", data_dir)


def test_missing_package_says_what_to_install(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    digits.digits_builder.cache_clear()
    message = r'tensorflow_datasets is missing: pip install "inception_jax\[data\]"'
    with pytest.raises(ImportError, match=message):
        open_digits("test", data_dir)
