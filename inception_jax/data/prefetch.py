# SPDX-License-Identifier: Apache-2.0
"""Loading ahead: many threads for one batch, a few batches at a time, processes if asked.

Decoding, resizing and reading leave Python's lock alone, so threads go far. They share the
batch they work on: memory is that of a few batches, not of one for each thread.
"""

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from inception_jax.data.optional import require

if TYPE_CHECKING:
    import grain

T = TypeVar("T")

# The one that is being filled, so that threads never wait for its last image, and the next.
BATCHES_AHEAD = 2

_processes = 1  # that share the cores of this machine; set in worker processes


def map_in_threads(load: Callable[[int], T], n: int) -> list[T]:
    """load(0), ..., load(n - 1), computed by as many threads as there are cores."""
    threads = _num_threads()
    results: list[Any] = [None] * n

    def load_share(first: int) -> None:
        for i in range(first, n, threads):
            results[i] = load(i)

    list(_pool().map(load_share, range(min(threads, n))))
    return results


def prefetch(dataset: "grain.MapDataset", workers: int) -> Iterator[Any]:
    """Elements of a dataset in order, loaded ahead by threads or by worker processes.

    Loading starts at once; closing the generator, or dropping it, stops it. Raises
    ValueError on a negative number of workers.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    grain = require("grain")
    size = 0 if workers else BATCHES_AHEAD
    options = grain.ReadOptions(num_threads=size, prefetch_buffer_size=size)
    batches = dataset.to_iter_dataset(options)
    if workers:
        one_waits = grain.MultiprocessingOptions(workers, per_worker_buffer_size=1)
        batches = batches.mp_prefetch(one_waits, worker_init_fn=_start_worker)
        # A thread that asks for the first batch now: only then Grain starts the workers.
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(_out_of_shared_memory), prefetch_buffer_size=1
        )
    flags = require("absl.flags").FLAGS
    if not flags.is_parsed():  # Grain looks into its flags, which have no command line here
        flags.mark_as_parsed()
    iterator = iter(batches)
    iterator.start_prefetch()
    return _closing(iterator, grace=0.1 if workers else 0.0)


def _out_of_shared_memory(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as ordinary arrays; what is still shared when Python ends would leak."""
    return {
        key: np.array(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
    }


def _closing(iterator: "grain.DatasetIterator", grace: float) -> Iterator[Any]:
    try:
        yield from iterator
    finally:
        iterator.close()
        # Grain frees shared memory in a thread, which the end of Python would cut off.
        time.sleep(grace)


def _start_worker(index: int, count: int) -> None:
    """Make this process a worker, one of `count`."""
    del index
    global _processes
    _processes = count
    # Ctrl-C reaches all processes of a terminal; the parent stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent stops nobody: without this, workers would wait for it forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _num_threads() -> int:
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // _processes)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_num_threads(), thread_name_prefix="images")
