# SPDX-License-Identifier: Apache-2.0
"""Batches of a run on their way to this process's devices."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from inception_jax.data.batches import eval_batches, train_batches, train_iterator
from inception_jax.data.source import Source
from inception_jax.runtime.parallel import Batch, this_host
from inception_jax.training.setup import Setup

Tell = Callable[[Iterable[str]], None]  # gets what could not be read


def train_feed(
    setup: Setup, step: int, place: Callable[[Batch], Batch], tell: Tell
) -> Iterator[Batch]:
    """Placed batches from `step` on; the next is on its way while one is worked on."""
    config = setup.config
    host, hosts = this_host()
    dataset = train_batches(
        setup.train_source,
        preprocess=setup.preprocess,
        augment=config.augment,
        batch_size=config.batch_size,
        seed=config.seed,
        num_hosts=hosts,
        host=host,
        on_bad_image=config.on_bad_image,
    )

    def placed(batch: dict[str, Any]) -> Batch:
        tell(batch.pop("skipped", ()))
        return place(batch)

    iterator = train_iterator(dataset, start_step=step, workers=config.workers)
    return _one_ahead(map(placed, iterator))


def eval_feed(
    setup: Setup, source: Source, batch_size: int, tell: Tell
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of batches that hold every example of `source` once."""
    host, hosts = this_host()
    for batch in eval_batches(
        source,
        preprocess=setup.preprocess,
        batch_size=batch_size,
        num_hosts=hosts,
        host=host,
        on_bad_image=setup.config.on_bad_image,
        workers=setup.config.workers,
    ):
        tell(batch.get("skipped", ()))
        yield {name: batch[name] for name in ("image", "label", "mask")}


def _one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """`items`, each asked for while the one before it is worked on."""
    iterator = iter(items)
    waiting = next(iterator)
    for item in iterator:
        yield waiting
        waiting = item
    yield waiting
