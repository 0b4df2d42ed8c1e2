# SPDX-License-Identifier: Apache-2.0
"""Iterators over the training and evaluation batches of this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from inception_jax.data.batches import eval_batches, train_batches, train_iterator
from inception_jax.data.source import Source
from inception_jax.runtime.collectives import Batch
from inception_jax.training.setup import Setup

OnSkipped = Callable[[Iterable[str]], None]  # takes error messages of unreadable images


def train_feed(
    setup: Setup, step: int, place: Callable[[Batch], Batch], on_skipped: OnSkipped
) -> Iterator[Batch]:
    """Yield batches from `step` on, each placed on the devices one step ahead."""
    config = setup.config
    dataset = train_batches(
        setup.train_source,
        preprocess=setup.preprocess,
        augment=config.augment,
        batch_size=config.batch_size,
        seed=config.seed,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
        on_bad_image=config.on_bad_image,
    )

    def place_batch(batch: Any) -> Batch:
        on_skipped(batch.pop("skipped", ()))
        return place(batch)

    batches = train_iterator(dataset, start_step=step, workers=config.workers)
    return one_ahead(map(place_batch, batches))


def eval_feed(
    setup: Setup, source: Source, batch_size: int, on_skipped: OnSkipped
) -> Iterator[Batch]:
    """Yield this process's part of each evaluation batch; no example is repeated."""
    for batch in eval_batches(
        source,
        preprocess=setup.preprocess,
        batch_size=batch_size,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
        on_bad_image=setup.config.on_bad_image,
        workers=setup.config.workers,
    ):
        on_skipped(batch.get("skipped", ()))
        yield {name: batch[name] for name in ("image", "label", "mask")}


def one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Yield `items`, requesting each before the previous one is yielded."""
    iterator = iter(items)
    previous = next(iterator)
    for item in iterator:
        yield previous
        previous = item
    yield previous
