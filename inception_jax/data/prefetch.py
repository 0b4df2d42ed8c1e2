# SPDX-License-Identifier: Apache-2.0
"""Prefetching: loads batches ahead of their use, in threads or in worker processes.

Threads are efficient, because reading, decoding and resizing release Python's GIL.
All threads work on one batch before they begin the next, so few batches are in memory.
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

# With two, threads that have no image left in one batch can begin the next.
BATCHES_AHEAD = 2

_num_processes = 1  # processes that share the cores; set in worker processes


def map_in_threads(load: Callable[[int], T], n: int) -> list[T]:
    """Return [load(0), ..., load(n - 1)], computed by one thread for each core."""
    threads = _num_threads()
    results: list[Any] = [None] * n

    def load_share(first: int) -> None:
        for i in range(first, n, threads):
            results[i] = load(i)

    list(_pool().map(load_share, range(min(threads, n))))
    return results


def prefetch(dataset: "grain.MapDataset", workers: int) -> Iterator[Any]:
    """Yield the elements of a dataset in order, loaded ahead of their use.

    Loading starts immediately and stops when the generator is closed or deleted. `workers`
    is the number of worker processes; 0 loads in threads. Raises ValueError if negative.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    grain = require("grain")
    size = 0 if workers else BATCHES_AHEAD
    options = grain.ReadOptions(num_threads=size, prefetch_buffer_size=size)
    batches = dataset.to_iter_dataset(options)
    if workers:
        processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=1)
        batches = batches.mp_prefetch(processes, worker_init_fn=_start_worker)
        # Grain starts the workers at the first request, which this thread makes now.
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(_copy_from_shared_memory), prefetch_buffer_size=1
        )
    flags = require("absl.flags").FLAGS
    if not flags.is_parsed():  # only absl.app.run parses the flags that Grain reads
        flags.mark_as_parsed()
    iterator = iter(batches)
    iterator.start_prefetch()
    return _closing(iterator, grace=0.1 if workers else 0.0)


def _copy_from_shared_memory(batch: dict[str, Any]) -> dict[str, Any]:
    """Copy the arrays, because shared memory in use when Python exits would leak."""
    return {
        key: np.array(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
    }


def _closing(iterator: "grain.DatasetIterator", grace: float) -> Iterator[Any]:
    try:
        yield from iterator
    finally:
        iterator.close()
        # Grain frees shared memory in a thread, which must finish before Python exits.
        time.sleep(grace)


def _start_worker(index: int, count: int) -> None:
    """Set up this process as one of `count` workers."""
    del index
    global _num_processes
    _num_processes = count
    # Ctrl-C signals all processes of a terminal, but the parent stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent is killed; otherwise workers would wait for it forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _num_threads() -> int:
    return max(1, len(usable_cores()) // _num_processes)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_num_threads(), thread_name_prefix="images")
