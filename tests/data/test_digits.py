# SPDX-License-Identifier: Apache-2.0
"""Digits against scikit-learn, and batches that every number of hosts agrees on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from inception_jax import data
from inception_jax.data import eval_batches, load_source, train_batches

ROOT = Path(__file__).parents[1]
HOSTS = [1, 2, 4]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    data.prepare_digits(folder)
    return folder


def records(n: int) -> list[data.Record]:
    """n examples that can be told apart by image and by label."""
    return [{"image": np.full((2, 3, 1), i, np.uint8), "label": i} for i in range(n)]


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 255, image.shape).astype(np.float32)


def labels(batches) -> list[int]:
    return np.concatenate([batch["label"] for batch in batches]).tolist()


def run(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Digits: scikit-learn -> PNG -> TFDS -> records


def test_digits_equal_those_of_scikit_learn(data_dir):
    digits = load_digits()
    train, test = (load_source("digits", split, data_dir) for split in ("train", "test"))
    assert (len(train), len(test)) == (1500, 297)
    images = np.stack([record["image"] for record in [*train, *test]])
    assert (images.dtype, images.shape) == (np.uint8, (1797, 8, 8, 1))
    assert (images.min(), images.max()) == (0, 255)
    levels = np.rint(images[..., 0] / 255 * 16)
    np.testing.assert_array_equal(levels, digits.images)
    assert [record["label"] for record in [*train, *test]] == digits.target.tolist()
    assert all(type(record["label"]) is int for record in train)


def test_a_part_of_a_split(data_dir):
    part = load_source("digits", "train[10:13]", data_dir)
    assert [record["label"] for record in part] == load_digits().target[10:13].tolist()


OFFLINE = """
import random, sys
from importlib.machinery import PathFinder

def find_no_tensorflow(name, *arguments, find_spec=PathFinder.find_spec):
    return None if name == "tensorflow" else find_spec(name, *arguments)

PathFinder.find_spec = find_no_tensorflow
attempts = []

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        attempts.append((event, arguments))
        raise OSError("no network in this test")

sys.addaudithook(no_network)
random.seed(0)
from inception_jax import data
heavy = {"tensorflow_datasets", "grain", "sklearn", "PIL", "array_record"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
print(len(data.load_source("digits", "train")), len(data.load_source("digits", "test")))
assert "tensorflow" not in sys.modules
assert not attempts, attempts
"""


def test_two_processes_prepare_at_once_without_tensorflow_and_network(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    environment = {"TFDS_DATA_DIR": str(folder), "HOME": str(home)}
    with run(OFFLINE, **environment) as first, run(OFFLINE, **environment) as second:
        for process in (first, second):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert out == "1500 297\n", "results alone belong on stdout"
    assert [path.name for path in (folder / "digits").iterdir()] == ["1.0.0"]
    assert not (home / "tensorflow_datasets").exists()


KILLED = """
import os, signal
from inception_jax import data

def examples(examples=data._digit_examples):
    for i, example in enumerate(examples()):
        if i == 1600:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example

data._digit_examples = examples
data.load_source("digits", "train", os.environ["FOLDER"])
"""


def test_killed_preparation_is_recovered_from(tmp_path):
    with run(KILLED, FOLDER=str(tmp_path)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    (leftover,) = (tmp_path / "digits").iterdir()
    assert leftover.name.startswith("incomplete.")
    assert len(load_source("digits", "train", str(tmp_path))) == 1500


@pytest.mark.parametrize("missing", ["digits-test*", "dataset_info.json", "*"])
def test_partial_folder_is_replaced(data_dir, tmp_path, missing):
    folder = tmp_path / "digits/1.0.0"
    shutil.copytree(Path(data_dir) / "digits/1.0.0", folder)
    for path in folder.glob(missing):
        path.unlink()
    assert len(load_source("digits", "test", str(tmp_path))) == 297
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_first_to_finish_wins(tmp_path, monkeypatch):
    shards = tmp_path / "digits/1.0.0"
    written = []

    def overtaken(examples=data._digit_examples):
        if not written:
            written.append(None)
            data.prepare_digits(str(tmp_path))
            written[0] = {path.name: path.stat().st_ino for path in shards.iterdir()}
        yield from examples()

    monkeypatch.setattr(data, "_digit_examples", overtaken)
    data.prepare_digits(str(tmp_path))
    assert {path.name: path.stat().st_ino for path in shards.iterdir()} == written[0]


def test_failed_preparation_leaves_nothing(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(data, "_digit_examples", broken)
    with pytest.raises(RuntimeError, match="disk on fire"):
        load_source("digits", "train", str(tmp_path))
    assert not list((tmp_path / "digits").iterdir())


def test_prepares_once(data_dir, monkeypatch):
    monkeypatch.setattr(data, "_digit_examples", None)
    assert len(load_source("digits", "train", data_dir)) == 1500


def test_tilde_is_the_home_directory(data_dir, monkeypatch):
    monkeypatch.setenv("HOME", data_dir)
    monkeypatch.setattr(data, "_digit_examples", None)
    assert len(load_source("digits", "test", "~")) == 297


def test_unknown_names_are_errors(data_dir):
    with pytest.raises(ValueError, match="unknown source 'imagenet'; known is 'digits'"):
        load_source("imagenet", "train", data_dir)
    with pytest.raises(ValueError, match=r"'validation'.*\['train', 'test'\]"):
        load_source("digits", "validation", data_dir)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "grain"])
def test_missing_package_says_what_to_install(module, data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    data.digits_builder.cache_clear()
    message = rf'{module} is missing: pip install "inception_jax\[data\]"'
    with pytest.raises(ImportError, match=message):
        train_batches(load_source("digits", "test", data_dir), batch_size=8, seed=0)


# Training batches


def test_batch_is_scaled_and_typed():
    source = [
        {"image": np.array([[[0], [51], [255]]], np.uint8), "label": label}
        for label in (7, 9)
    ]
    batch = train_batches(source, batch_size=2, seed=0)[0]
    assert set(batch) == {"image", "label"}
    assert (batch["image"].dtype, batch["image"].shape) == (np.float32, (2, 1, 3, 1))
    np.testing.assert_allclose(batch["image"][0, 0, :, 0], [-1, -0.6, 1], rtol=1e-6)
    assert batch["label"].dtype == np.int32
    assert sorted(batch["label"]) == [7, 9]


@pytest.mark.parametrize("augment", [None, noise], ids=["plain", "augmented"])
@pytest.mark.parametrize("num_hosts", HOSTS[1:])
def test_global_batch_is_the_same_for_any_number_of_hosts(num_hosts, augment):
    source = records(103)

    def hosts(n: int):
        options = {"batch_size": 8, "seed": 3, "augment": augment}
        return [
            train_batches(source, num_hosts=n, host=host, **options) for host in range(n)
        ]

    (single,), several = hosts(1), hosts(num_hosts)
    for t in (0, 1, 12, 13, 1_000_000):  # 12 reaches into the second epoch
        for host, batches in enumerate(several):
            for key in ("image", "label"):
                expected = single[t][key][host::num_hosts]
                np.testing.assert_array_equal(batches[t][key], expected)


def test_batch_is_a_function_of_seed_and_step():
    source = records(103)
    batches = train_batches(source, batch_size=8, seed=3, augment=noise)
    in_order = [batches[t] for t in range(20)]
    resumed = train_batches(source, batch_size=8, seed=3, augment=noise)
    for t in (17, 4, 18):
        np.testing.assert_array_equal(resumed[t]["image"], in_order[t]["image"])
        np.testing.assert_array_equal(resumed[t]["label"], in_order[t]["label"])


def test_batch_depends_on_the_seed():
    # One example: what differs is the augmentation alone.
    one = records(1)
    first, second = (
        train_batches(one, batch_size=1, seed=seed, augment=noise)[0]["image"]
        for seed in (3, 4)
    )
    assert (first != second).all()
    first, second = (
        train_batches(records(103), batch_size=8, seed=seed)[0]["label"].tolist()
        for seed in (3, 4)
    )
    assert first != second


def test_epoch_visits_each_example_once_in_an_order_of_its_own():
    # 8 epochs of 103 examples are 103 batches of 8.
    def epochs(seed: int) -> list[list[int]]:
        batches = train_batches(records(103), batch_size=8, seed=seed)
        return np.reshape(labels(batches[t] for t in range(103)), (8, 103)).tolist()

    orders = epochs(3) + epochs(4)
    assert all(sorted(order) == list(range(103)) for order in orders)
    # Also over seeds: seed 4 must not start where seed 3 is an epoch later.
    assert len({tuple(order) for order in [*orders, range(103)]}) == 17


def test_augmentation_differs_between_examples_and_epochs():
    batches = train_batches(records(4), batch_size=4, seed=0, augment=noise)
    images = np.concatenate([batches[t]["image"].reshape(4, -1) for t in range(3)])
    assert len(np.unique(images, axis=0)) == 12
    assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1


def test_augmentation_cannot_write_into_the_data_set(data_dir):
    def invert(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image[...] = 255 - image
        return image

    source = load_source("digits", "test", data_dir)
    with pytest.raises(ValueError, match="read-only"):
        train_batches(source, batch_size=8, seed=0, augment=invert)[0]


def test_order_is_that_of_earlier_runs():
    # If this goes red, no earlier run can be resumed or repeated any more.
    batches = train_batches(records(103), batch_size=8, seed=0)
    assert batches[0]["label"].tolist() == [96, 77, 31, 79, 9, 70, 28, 83]
    assert batches[13]["label"].tolist() == [72, 1, 95, 41, 99, 3, 73, 88]
    image = train_batches(records(103), batch_size=8, seed=0, augment=noise)[13]["image"]
    np.testing.assert_allclose(
        image[0, 0, :, 0], [0.2943298, -0.5226767, 0.1155947], rtol=1e-5
    )


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
        train_batches(records(103), seed=0, **options)
    with pytest.raises(ValueError, match=message):
        eval_batches(records(103), **options)


def test_wrong_training_options_are_errors():
    with pytest.raises(ValueError, match="batch_size 104 exceeds the 103 examples"):
        train_batches(records(103), batch_size=104, seed=0)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"from 0 to 2\*\*32 - 1, got {seed}"):
            train_batches(records(103), batch_size=8, seed=seed)


# Evaluation batches


@pytest.mark.parametrize("num_hosts", HOSTS)
@pytest.mark.parametrize("n", [1, 8, 97, 103, 104])
def test_evaluation_counts_every_example_once(n, num_hosts):
    hosts = [
        list(eval_batches(records(n), batch_size=8, num_hosts=num_hosts, host=host))
        for host in range(num_hosts)
    ]
    assert {len(batches) for batches in hosts} == {-(-n // 8)}
    counted = []
    for step in zip(*hosts, strict=True):
        for batch in step:
            assert batch["image"].shape == (8 // num_hosts, 2, 3, 1)
            assert batch["image"].dtype == batch["mask"].dtype == np.float32
            assert batch["label"].dtype == np.int32
            padding = batch["mask"] == 0
            assert not batch["image"][padding].any()
            assert not batch["label"][padding].any()
            pixels = batch["image"][~padding, 0, 0, 0]
            expected = batch["label"][~padding] / 127.5 - 1
            np.testing.assert_allclose(pixels, expected, rtol=1e-6)
        # Host h holds the examples h, h + num_hosts, ... of the step.
        label, mask = (
            np.stack([batch[key] for batch in step], axis=1).reshape(-1)
            for key in ("label", "mask")
        )
        counted += label[mask == 1].tolist()
        assert set(mask.tolist()) <= {0.0, 1.0}
    assert counted == list(range(n))
    assert sum(batch["mask"].sum() for batches in hosts for batch in batches) == n
