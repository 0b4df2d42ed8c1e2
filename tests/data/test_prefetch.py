# SPDX-License-Identifier: Apache-2.0
"""Threads and worker processes load the same batches and end when they should."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.batches import eval_batches, train_batches, train_iterator
from inception_jax.data.decoding import UnreadableImage
from inception_jax.data.open_source import open_source
from inception_jax.data.prefetch import map_in_threads
from inception_jax.data.source import Example, Source
from tests.data.test_batches import assert_same, photos

ROOT = Path(__file__).parents[2]
SMALL = PreprocessSpec((10, 12, 3))


def small_batches(source: Source, **options):
    options = {"augment": AugmentConfig(), "batch_size": 8, "seed": 3} | options
    return train_batches(source, preprocess=SMALL, **options)


@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=pytest.mark.slow)])
def test_batches_do_not_depend_on_the_workers(workers):
    dataset = small_batches(photos(103, bad=[5]), on_bad_image="skip")
    iterator = train_iterator(dataset, start_step=7, workers=workers)
    for t in range(7, 29):  # from the first epoch into the third
        assert_same(next(iterator), dataset[t])
    iterator.close()


def test_evaluation_does_not_depend_on_the_workers(data_dir):
    source = open_source("imagenet2012", "eval", data_dir)
    options = {"preprocess": SMALL, "batch_size": 3, "num_hosts": 3, "host": 1}
    expected = list(eval_batches(source, **options))
    assert [batch["mask"].tolist() for batch in expected] == [[1], [1], [1]]
    for batch, other in zip(
        expected, eval_batches(source, workers=2, **options), strict=True
    ):
        assert_same(batch, other)


def test_negative_numbers_are_errors():
    dataset = small_batches(photos(9))
    with pytest.raises(ValueError, match="start_step must be 0 or more, got -1"):
        train_iterator(dataset, start_step=-1, workers=0)
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        train_iterator(dataset, start_step=0, workers=-1)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_are_raised(workers):
    dataset = small_batches(photos(8, bad=[2]), batch_size=8)
    with pytest.raises(UnreadableImage, match=r"'#2.jpg' cannot be read: it starts with"):
        next(train_iterator(dataset, start_step=0, workers=workers))


class Reports(Sequence[Example]):
    """Images whose labels report the state of the process that reads them."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Example:
        ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        state = [os.getpid(), self.devices_in_use(), ignores]
        image = np.zeros((8, 8, 3), np.uint8)
        return {"image": image, "label": int(state[index % 3]), "name": ""}

    @staticmethod
    def devices_in_use() -> bool:
        bridge = sys.modules.get("jax._src.xla_bridge")
        return bridge is not None and bridge.backends_are_initialized()


def test_workers_ignore_interrupts_and_use_no_devices():
    source = Source("test", "eval", ("",), Reports())
    batch = next(eval_batches(source, preprocess=SMALL, batch_size=3, workers=1))
    pid, in_use, ignores = batch["label"].tolist()
    assert pid != os.getpid()
    assert not in_use, (
        "a worker that initialises JAX takes its devices from the training process"
    )
    assert ignores, "Ctrl-C signals the workers, too"


def test_threads_work_concurrently_and_results_are_in_order():
    together = threading.Barrier(min(2, len(os.sched_getaffinity(0))), timeout=10)

    def load(i: int) -> int:
        if i < together.parties:
            together.wait()
        return i * i

    assert map_in_threads(load, 100) == [i * i for i in range(100)]
    assert map_in_threads(abs, 1) == [0]
    assert map_in_threads(abs, 0) == []


def test_errors_in_threads_are_raised():
    def load(i: int) -> int:
        if i == 7:
            raise KeyError("seventh")
        return i

    with pytest.raises(KeyError, match="seventh"):
        map_in_threads(load, 20)


def test_only_a_few_batches_are_loaded_ahead():
    loaded = set()

    class Counted(list):
        def __getitem__(self, index: int) -> Example:
            loaded.add(index)
            return super().__getitem__(index)

    source = Source("test", "eval", ("",), Counted(photos(100).examples))
    loaded.clear()  # run-time type checks read an example
    iterator = eval_batches(source, preprocess=SMALL, batch_size=1)
    for _ in range(5):
        next(iterator)
    time.sleep(0.2)
    assert 5 <= len(loaded) <= 8


# Termination

TRAINING = """
import sys, time
from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.batches import train_batches, train_iterator
from inception_jax.data.open_source import open_source

def main():
    source = open_source("synthetic:2x64", "train")
    options = {"augment": AugmentConfig(), "batch_size": 8, "seed": 0}
    dataset = train_batches(source, preprocess=PreprocessSpec((32, 32, 3)), **options)
    iterator = train_iterator(dataset, start_step=0, workers=int(sys.argv[1]))
    for step, batch in enumerate(iterator):
        if step == 2:
            print("running", flush=True)
        if step == int(sys.argv[2]):
            break

if __name__ == "__main__":
    main()
"""


@contextmanager
def start(tmp_path: Path, workers: int, steps: int) -> Iterator[subprocess.Popen]:
    """Run the program in its own session, which is killed if the test fails."""
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    process = subprocess.Popen(
        [sys.executable, str(script), str(workers), str(steps)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "running\n"
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def running(session: int) -> list[int]:
    """Return the ids of the running processes of a session."""
    ids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state not in "ZX":
            ids.append(int(stat.parent.name))
    return ids


def wait_until_none_runs(session: int) -> None:
    deadline = time.monotonic() + 30
    while running(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(session)


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_training_ends(tmp_path, workers):
    with start(tmp_path, workers, 10**9) as process:
        assert len(running(process.pid)) > workers
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
        assert process.returncode != 0
        assert err.count("KeyboardInterrupt") == 1, err
    wait_until_none_runs(process.pid)


@pytest.mark.parametrize("workers", [0, 2])
def test_finished_training_ends(tmp_path, workers):
    with start(tmp_path, workers, 3) as process:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    wait_until_none_runs(process.pid)


def test_workers_end_with_a_killed_parent(tmp_path):
    with start(tmp_path, 2, 10**9) as process:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait(timeout=60)
    wait_until_none_runs(process.pid)
