# SPDX-License-Identifier: Apache-2.0
"""`inception-jax data bench` measures what it claims; speed itself is not tested."""

import contextlib
import functools
import importlib.util
import io
import json
import multiprocessing
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data import bench
from inception_jax.data.bench import Result, Round, Setting
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Example

CORES = bench.usable_cores()
EVERYTHING = ("ours", "tf.data like Flax", "tf.data like ours")


@pytest.fixture(scope="module")
def photos():
    return bench.sample_in_memory(open_source("synthetic:10x300", "train"))


@pytest.fixture
def tensorflow(monkeypatch):
    """Return a function that pretends that TensorFlow is installed or not."""

    def pretend(installed: bool) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: (
                (installed or None) if name == "tensorflow" else find(name, *rest)
            ),
        )

    return pretend


@pytest.fixture
def run(run_data):
    """Run `inception-jax data bench ARGUMENTS`; return exit status, stdout and stderr."""
    return functools.partial(run_data, "bench")


def test_the_sample_is_in_memory_and_reproducible(photos):
    assert (len(photos), photos.name) == (256, "synthetic:10x300")
    assert isinstance(photos.examples, list)
    again = bench.sample_in_memory(open_source("synthetic:10x300", "train"))
    assert photos.examples == again.examples
    assert len({example["name"] for example in photos.examples}) == 256


def test_too_few_images():
    source = open_source("synthetic:10x300", "train[:63]")
    with pytest.raises(ValueError, match=r"has 63 images; expected 64 or more\."):
        bench.sample_in_memory(source)


@pytest.mark.skipif(not bench.can_pin_to_cores(), reason="this system pins no process")
def test_settings(photos, tensorflow, monkeypatch):
    monkeypatch.setattr(bench, "usable_cores", lambda: (3, 5, 7))
    tensorflow(True)
    assert bench.available_settings(photos) == [
        *(Setting(name, (3,)) for name in EVERYTHING),
        *(Setting(name, (3, 5, 7)) for name in EVERYTHING),
        Setting("ours", (3, 5, 7), processes=3),
    ]
    tensorflow(False)
    assert {setting.pipeline for setting in bench.available_settings(photos)} == {"ours"}
    monkeypatch.setattr(bench, "usable_cores", lambda: (3,))
    assert bench.available_settings(photos) == [
        Setting("ours", (3,)),
        Setting("ours", (3,), 1),
    ]


def test_reasons_for_not_measuring_tensorflow(photos, tensorflow, data_dir):
    tensorflow(True)
    assert bench.tensorflow_problem(photos) is None
    digits = bench.sample_in_memory(open_source("digits", "train", data_dir))
    assert bench.tensorflow_problem(digits) == "the images are not all JPEG files"
    png: Example = {"image": b"\x89PNG", "label": 0, "name": "a.jpg"}
    mixed = replace(photos, examples=[*photos.examples, png])
    assert bench.tensorflow_problem(mixed) == "the images are not all JPEG files"
    tensorflow(False)
    assert "pip install tensorflow" in bench.tensorflow_problem(photos)


def test_rates():
    rounds = [Round(100, 2.0, 1.0), Round(100, 4.0, 0.5)]
    threads = Result(Setting("ours", (0,)), rounds)
    assert threads.rates == [50, 25]
    assert threads.rates_per_core == [100, 200]
    processes = Result(Setting("ours", (0,), processes=2), rounds)
    assert processes.rates_per_core == [], "their CPU time is not measured"


@pytest.mark.parametrize("processes", [0, 2])
def test_a_round_excludes_warm_up_and_batches_loaded_in_advance(
    photos, monkeypatch, processes
):
    delivered = []

    def pipeline(source, setting):
        while True:
            delivered.append(os.sched_getaffinity(0) if bench.can_pin_to_cores() else None)
            # Batches loaded in advance come immediately, the others take time.
            time.sleep(0.005 if len(delivered) > 4 + 3 * processes else 0)
            yield None

    before = os.sched_getaffinity(0) if bench.can_pin_to_cores() else None
    monkeypatch.setitem(bench.PIPELINES, "ours", pipeline)
    asking, asked = multiprocessing.Pipe()
    for batches in (3, 2, None):
        asking.send(batches)
    try:
        bench._serve(asked, photos, Setting("ours", CORES[-1:], processes))
    finally:
        if before:
            os.sched_setaffinity(0, before)
    assert len(delivered) == 3 + 2 + 2 * (4 + 3 * processes)
    if before:
        assert delivered[0] == set(CORES[-1:])
    first, second = asking.recv(), asking.recv()
    assert (first.images, second.images) == (3 * 64, 2 * 64)
    assert 0.015 <= first.seconds < 5
    assert first.cpu_seconds < first.seconds, "sleeping takes no CPU time"


def test_settings_are_timed_alternately(photos, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def running(source, setting):
        def ask(batches):
            asked.append((setting.pipeline, batches))
            return Round(batches * 64, float(len(asked)), 1.0)

        yield ask

    monkeypatch.setattr(bench, "_pipeline", running)
    settings = [Setting("ours", (0,)), Setting("tf.data like Flax", (0,))]
    results = bench.measure(photos, settings, rounds=3, images=130)
    ours, theirs = ("ours", 2), ("tf.data like Flax", 2)
    assert asked == [ours, theirs, theirs, ours, ours, theirs]
    assert [result.setting for result in results] == settings
    assert [r.seconds for r in results[0].rounds] == [1, 4, 5]
    assert [r.seconds for r in results[1].rounds] == [2, 3, 6]


def test_ours_is_measured_in_its_own_process(photos):
    (result,) = bench.measure(photos, [Setting("ours", CORES[:1])], rounds=1, images=64)
    (measured,) = result.rounds
    assert measured.images == 64
    assert 0 < measured.cpu_seconds < 10
    assert 0 < measured.seconds < 60


def test_a_pipeline_that_fails(photos, capfd):
    with pytest.raises(ChildProcessError, match=r"process of 'no such' failed"):
        bench.measure(photos, [Setting("no such", CORES[:1])], rounds=1, images=64)
    assert "KeyError: 'no such'" in capfd.readouterr().err


def test_ours_is_the_training_pipeline(photos):
    batch = next(bench.PIPELINES["ours"](photos, Setting("ours", CORES)))
    assert (batch["image"].shape, batch["image"].dtype) == ((64, 299, 299, 3), np.uint8)
    assert "color_seed" in batch


@pytest.mark.parametrize("like_ours", [True, False])
def test_tensorflow_does_the_same_work(photos, like_ours):
    reason = "TensorFlow is not installed: pip install tensorflow"
    pytest.importorskip("tensorflow", reason=reason)
    from inception_jax.data.bench_tensorflow import tensorflow_batches

    batches = tensorflow_batches(
        [example["image"] for example in photos.examples[:8]],
        batch_size=64,
        threads=1,
        preprocess=PreprocessSpec(),
        augment=AugmentConfig(),
        like_ours=like_ours,
    )
    images = np.concatenate([next(batches) for _ in range(4)])
    assert images.shape == (256, 299, 299, 3)
    assert images.dtype == (np.uint8 if like_ours else np.float32)
    # The same images give the same mean and spread, each in its own range.
    ours = next(bench.PIPELINES["ours"](photos, Setting("ours", CORES)))["image"]
    theirs = images if like_ours else (images + 1) * 127.5
    assert abs(theirs.mean() - ours.mean()) < 12
    assert abs(theirs.std() - ours.std()) < 8
    if not like_ours:
        assert -1.5 < images.min() < -0.9, "bicubic interpolation overshoots a little"
        assert 0.9 < images.max() < 1.5


@pytest.fixture
def measured(monkeypatch):
    """Replace measurements by rates that are easy to check."""

    def measure(source, settings, *, rounds, images):
        assert (rounds, images) == (3, 128)
        speed = {"ours": 1.0, "tf.data like Flax": 0.5, "tf.data like ours": 0.8}
        results = []
        for setting in settings:
            cores = len(setting.cores)
            rate = 1000 * cores
            wall = [images / rate, images / (2 * rate), images / (4 * rate)]
            cpu = images / (1000 * speed[setting.pipeline])
            cpu *= cores if setting.pipeline == "ours" else 1
            results.append(Result(setting, [Round(images, s, cpu) for s in wall]))
        return results

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "usable_cores", lambda: (0, 1))
    monkeypatch.setattr(bench, "can_pin_to_cores", lambda: True)


def test_the_table(run, measured, tensorflow, tmp_path):
    tensorflow(True)
    file = tmp_path / "rates.jsonl"
    arguments = ("synthetic:10x200", "--rounds", "3", "--images", "128")
    status, output, errors = run(*arguments, "--need", "5000", "--jsonl", str(file))
    assert (status, errors) == (0, "")
    assert output.startswith("synthetic:10x200: 200 files of ")
    table, rest = output.split("\n\n")[1:]
    cells = [line.split() for line in table.splitlines()[2:]]
    assert cells[0] == ["ours", "1", "threads", "2,000", "1,000", "4,000", "1,000"]
    assert cells[1][-5:] == ["threads", "2,000", "1,000", "4,000", "500"]
    assert cells[6] == ["ours", "2", "2", "processes", "4,000", "2,000", "8,000", "-"]
    assert rest.splitlines() == [
        "per CPU second, ours delivers 2.00 times as many images as tf.data like Flax "
        "(2.00 to 2.00)",
        "per CPU second, ours delivers 1.25 times as many images as tf.data like ours "
        "(1.25 to 1.25)",
        "needed 5,000 images/s, measured 4,000: TOO FEW, 80%; "
        "5 cores of this kind are needed",
    ]
    lines = [json.loads(line) for line in io.StringIO(file.read_text())]
    assert len(lines) == 7 * 3
    assert lines[1] == {
        "data": "synthetic:10x200",
        "pipeline": "ours",
        "cores": [0],
        "processes": 0,
        "round": 1,
        "images": 128,
        "seconds": 0.064,
        "cpu_seconds": 0.128,
    }


def test_missing_tensorflow_is_reported(run, measured, tensorflow):
    tensorflow(False)
    arguments = ("synthetic:10x200", "--rounds", "3", "--images", "128")
    _, output, _ = run(*arguments, "--need", "4000")
    assert "tf.data was NOT measured: TensorFlow is not installed" in output
    assert "times as many" not in output
    assert "needed 4,000 images/s, measured 4,000: enough; 4 cores" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("synthetic:10x20", "has 20 images; expected 64 or more"),
        ("synthetic:10x200 --rounds 0", "got 0 of 512"),
        ("synthetic:10x200 --images 63", "expected at least 1 round of at least 64 images"),
        ("synthetic:10x200 --need 0", "need must be above 0 images/s, got 0"),
        ("folder:/no/such", "'/no/such' does not exist"),
    ],
)
def test_wrong_input_is_one_line(run, arguments, part):
    status, _, errors = run(*arguments.split())
    assert status == 2
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors


def test_help(run):
    status, output, _ = run("--help")
    assert status == 0
    assert output.startswith("usage: inception-jax data bench [-h] ")
