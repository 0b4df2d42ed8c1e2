# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the host pipeline in images per second, compared with TensorFlow's.

Each pipeline runs in its own process, on one core or on all cores, and the pipelines are
timed alternately. The files are held in memory, so disk reads are not measured.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.batches import train_batches, train_iterator
from inception_jax.data.bench_tensorflow import tensorflow_batches
from inception_jax.data.prefetch import usable_cores
from inception_jax.data.source import Source

BATCH_SIZE = 64
# Batches at the start of a round that are not timed. A pipeline, and each of its worker
# processes, loads fewer than this ahead of the round.
WARM_UP, WARM_UP_PER_PROCESS = 4, 3
NUM_FILES = 256
# The files are repeated, because Grain shuffles a few hundred examples ten times as slowly
# as a large data set (0.12 ms per example for 256, 0.01 ms for 25,600).
REPEATS = 100


@dataclass(frozen=True)
class Setting:
    """A pipeline and the resources that it may use."""

    pipeline: str  # a key of `PIPELINES`
    cores: tuple[int, ...]  # numbers of the cores that it is pinned to
    processes: int = 0  # worker processes; 0 loads in threads


class Round(NamedTuple):
    """One measurement of a setting."""

    images: int
    seconds: float
    cpu_seconds: float  # of all threads, excluding worker processes


@dataclass(frozen=True)
class Result:
    """All measurements of a setting."""

    setting: Setting
    rounds: Sequence[Round]

    @property
    def rates(self) -> list[float]:
        """Images per second in each round."""
        return [r.images / r.seconds for r in self.rounds]

    @property
    def rates_per_core(self) -> list[float]:
        """Images per second of CPU time in each round; empty with worker processes.

        Unlike `rates`, these hardly depend on the other programs on the machine.
        """
        if self.setting.processes:
            return []
        return [r.images / r.cpu_seconds for r in self.rounds]


def sample_in_memory(source: Source) -> Source:
    """Return a random part of a source in memory; ValueError if it is below one batch."""
    if len(source) < BATCH_SIZE:
        raise ValueError(
            f"{source.name!r} has {len(source)} images; expected {BATCH_SIZE} or more."
        )
    count = min(NUM_FILES, len(source))
    chosen = np.random.default_rng(0).choice(len(source), count, replace=False)
    return replace(source, examples=[source.examples[i] for i in chosen.tolist()])


def available_settings(source: Source) -> list[Setting]:
    """Return the settings to measure; those of tf.data only if it can be measured."""
    cores = usable_cores()
    names = list(PIPELINES) if tensorflow_problem(source) is None else ["ours"]
    core_sets = [cores[:1], cores] if can_pin_to_cores() and len(cores) > 1 else [cores]
    settings = [Setting(name, core_set) for core_set in core_sets for name in names]
    return [*settings, Setting("ours", cores, processes=len(cores))]


def tensorflow_problem(source: Source) -> str | None:
    """Return why tf.data cannot be measured on a source, or None."""
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed: pip install tensorflow"
    images = [example["image"] for example in source.examples]
    if not all(isinstance(i, bytes) and i.startswith(b"\xff\xd8\xff") for i in images):
        return "the images are not all JPEG files"
    return None


def can_pin_to_cores() -> bool:
    """Return whether the system can pin a process to cores, which macOS cannot."""
    return hasattr(os, "sched_setaffinity")


def measure(
    source: Source, settings: Sequence[Setting], *, rounds: int, images: int
) -> list[Result]:
    """Time each setting `rounds` times on about `images` images, alternating between them.

    Raises ValueError for less than one round or batch, and ChildProcessError if a pipeline
    fails.
    """
    if rounds < 1 or images < BATCH_SIZE:
        raise ValueError(
            f"expected at least 1 round of at least {BATCH_SIZE} images, got {rounds} of "
            f"{images}."
        )
    measured: dict[Setting, list[Round]] = {setting: [] for setting in settings}
    with contextlib.ExitStack() as stack:
        time_batches = {s: stack.enter_context(_pipeline(source, s)) for s in settings}
        for index in range(rounds):
            for setting in settings if index % 2 == 0 else reversed(settings):
                measured[setting].append(time_batches[setting](images // BATCH_SIZE))
    return [Result(setting, measured[setting]) for setting in settings]


@contextlib.contextmanager
def _pipeline(source: Source, setting: Setting) -> Iterator[Callable[[int], Round]]:
    """Start a process with the pipeline; yield a function that times batches."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, source, setting))
    process.start()
    theirs.close()

    def time_batches(batches: int) -> Round:
        ours.send(batches)
        try:
            return ours.recv()
        except (EOFError, ConnectionError):
            raise ChildProcessError(
                f"the process of {setting.pipeline!r} failed; its error is printed above."
            ) from None

    try:
        yield time_batches
    finally:
        with contextlib.suppress(ConnectionError):
            ours.send(None)
        process.join()


def _serve(connection: Connection, source: Source, setting: Setting) -> None:
    """Time the numbers of batches received, until None is received."""
    if can_pin_to_cores():
        os.sched_setaffinity(0, setting.cores)
    iterator = PIPELINES[setting.pipeline](source, setting)
    # EOFError: the parent process has ended.
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        while (batches := connection.recv()) is not None:
            for _ in range(WARM_UP + WARM_UP_PER_PROCESS * setting.processes):
                next(iterator)
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(batches):
                next(iterator)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            connection.send(Round(batches * BATCH_SIZE, seconds, cpu))


def _ours(source: Source, setting: Setting) -> Iterator[Any]:
    dataset = train_batches(
        replace(source, examples=[*source.examples] * REPEATS),
        preprocess=PreprocessSpec(),
        augment=AugmentConfig(),
        batch_size=BATCH_SIZE,
        seed=0,
    )
    return train_iterator(dataset, start_step=0, workers=setting.processes)


def _tensorflow(source: Source, setting: Setting, *, like_ours: bool) -> Iterator[Any]:
    return tensorflow_batches(
        [image for e in source.examples if isinstance(image := e["image"], bytes)],
        batch_size=BATCH_SIZE,
        threads=len(setting.cores),
        preprocess=PreprocessSpec(),
        augment=AugmentConfig(),
        like_ours=like_ours,
    )


PIPELINES: dict[str, Callable[[Source, Setting], Iterator[Any]]] = {
    "ours": _ours,
    "tf.data like Flax": partial(_tensorflow, like_ours=False),
    "tf.data like ours": partial(_tensorflow, like_ours=True),
}
