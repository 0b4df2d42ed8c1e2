# SPDX-License-Identifier: Apache-2.0
"""How many images per second this machine's host pipeline delivers, and TensorFlow's.

Every pipeline is a process of its own, on one core or on all, and they take turns, round
by round. The files are in memory: reading them from the disk is not measured.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from inception_jax.config import AugmentConfig, PreprocessSpec
from inception_jax.data.batches import train_batches, train_iterator
from inception_jax.data.bench_tensorflow import tensorflow_batches
from inception_jax.data.source import Source

BATCH_SIZE = 64
# Batches that are not counted: more than a pipeline, and than each of its worker
# processes, keeps ready from before the round.
WARM_UP, WARM_UP_PER_PROCESS = 4, 3
NUM_FILES = 256  # more would only fill memory
# Grain's shuffle of a few hundred takes ten times as long, for each, as that of many
# (0.12 ms of 256, 0.01 ms of 25,600 or 1,281,167): the files count as a larger data set.
REPEATS = 100


@dataclass(frozen=True)
class Setting:
    """A pipeline and what it may use."""

    pipeline: str  # a key of `PIPELINES`
    cores: tuple[int, ...]  # numbers of the cores that it is confined to
    processes: int = 0  # that load; 0 is threads


class Round(NamedTuple):
    """One measurement of a setting."""

    images: int
    seconds: float
    cpu_seconds: float  # of all threads, without worker processes


@dataclass(frozen=True)
class Result:
    """All measurements of a setting."""

    setting: Setting
    rounds: Sequence[Round]

    @property
    def rates(self) -> list[float]:
        """Images per second, by round."""
        return [r.images / r.seconds for r in self.rounds]

    @property
    def rates_per_core(self) -> list[float]:
        """Images per second of processor time, by round; none with worker processes.

        Other programs on the machine hardly touch it, while they halve `rates`.
        """
        if self.setting.processes:
            return []
        return [r.images / r.cpu_seconds for r in self.rounds]


def sample_in_memory(source: Source) -> Source:
    """A part of a source, held in memory; raises ValueError on less than a batch."""
    if len(source) < BATCH_SIZE:
        raise ValueError(
            f"{source.name!r} has {len(source)} images; expected {BATCH_SIZE} or more."
        )
    count = min(NUM_FILES, len(source))
    chosen = np.random.default_rng(0).choice(len(source), count, replace=False)
    return replace(source, examples=[source.examples[i] for i in chosen.tolist()])


def available_settings(source: Source) -> list[Setting]:
    """What can be measured here: ours alone without TensorFlow, or on other than JPEG."""
    cores = usable_cores()
    names = ["ours"]
    if tensorflow_problem(source) is None:
        names += ["tf.data like Flax", "tf.data like ours"]
    sets = [cores[:1], cores] if can_pin_to_cores() and len(cores) > 1 else [cores]
    out = [Setting(name, some) for some in sets for name in names]
    return [*out, Setting("ours", cores, processes=len(cores))]


def tensorflow_problem(source: Source) -> str | None:
    """Why tf.data cannot be measured, in a few words."""
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed: pip install tensorflow"
    images = [example["image"] for example in source.examples]
    if not all(isinstance(i, bytes) and i.startswith(b"\xff\xd8\xff") for i in images):
        return "the images are not all JPEG files"
    return None


def can_pin_to_cores() -> bool:
    """Whether a process can be kept on some cores; macOS cannot."""
    return hasattr(os, "sched_setaffinity")


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use."""
    if can_pin_to_cores():
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def measure(
    source: Source, settings: Sequence[Setting], *, rounds: int, images: int
) -> list[Result]:
    """Measure all settings in turn, `rounds` times about `images` images.

    Raises ValueError on fewer than one round or batch, ChildProcessError where a pipeline
    fails.
    """
    if rounds < 1 or images < BATCH_SIZE:
        raise ValueError(
            f"expected 1 round or more of {BATCH_SIZE} images or more, got {rounds} of "
            f"{images}."
        )
    measured: dict[Setting, list[Round]] = {setting: [] for setting in settings}
    with contextlib.ExitStack() as stack:
        asks = {s: stack.enter_context(_running(source, s)) for s in settings}
        for index in range(rounds):
            order = list(asks) if index % 2 == 0 else list(reversed(asks))
            for setting in order:
                measured[setting].append(asks[setting](images // BATCH_SIZE))
    return [Result(setting, rounds) for setting, rounds in measured.items()]


@contextlib.contextmanager
def _running(source: Source, setting: Setting) -> Iterator[Callable[[int], Round]]:
    """A process with the pipeline; the function has it deliver so many batches."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, source, setting))
    process.start()
    theirs.close()

    def ask(batches: int) -> Round:
        ours.send(batches)
        try:
            return ours.recv()
        except (EOFError, ConnectionError):
            raise ChildProcessError(
                f"the process of {setting.pipeline!r} has failed; its error is above."
            ) from None

    try:
        yield ask
    finally:
        with contextlib.suppress(ConnectionError):
            ours.send(None)
        process.join()


def _serve(connection: Connection, source: Source, setting: Setting) -> None:
    """Deliver batches and measure the time, until told None."""
    if can_pin_to_cores():
        os.sched_setaffinity(0, setting.cores)
    iterator = PIPELINES[setting.pipeline](source, setting)
    # EOFError: the one who asked is gone.
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


def _tensorflow(like_ours: bool) -> Callable[[Source, Setting], Iterator[Any]]:
    return lambda source, setting: tensorflow_batches(
        [example["image"] for example in source.examples],
        batch_size=BATCH_SIZE,
        threads=len(setting.cores),
        preprocess=PreprocessSpec(),
        augment=AugmentConfig(),
        like_ours=like_ours,
    )


PIPELINES: dict[str, Callable[[Source, Setting], Iterator[Any]]] = {
    "ours": _ours,
    "tf.data like Flax": _tensorflow(like_ours=False),
    "tf.data like ours": _tensorflow(like_ours=True),
}
