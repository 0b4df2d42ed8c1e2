# SPDX-License-Identifier: Apache-2.0
"""Outcomes of a run, computed from its record.

A run has collapsed at a probe if at least 95 % of the channels before the pool are dead and
the loss is at least 95 % of ln(classes), the loss of guessing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WINDOW = 10  # updates over which the final loss is averaged
DEAD = 0.95
OTHER_SHARES = (0.90, 0.99)  # also counted, to show that the choice does not matter
GUESSING = 0.95  # of ln(classes)


def dead_share(record: dict[str, Any]) -> float:
    """Return the share of dead channels at the last probe.

    The share is 1 for a run that diverged.
    """
    if has_diverged(record):
        return 1.0
    return float(record["probes"]["pool_dead"][-1])


def has_diverged(record: dict[str, Any]) -> bool:
    """Return whether the training loss became NaN or infinite."""
    return not np.isfinite(np.array(record["loss"], float)).all()


def final_loss(record: dict[str, Any]) -> float:
    """Return the training loss in nats, averaged over the last ten updates."""
    if has_diverged(record):
        return math.inf
    last = -(-WINDOW // record["loss_every"])  # recorded means that cover the updates
    return float(np.mean(record["loss"][-last:]))


def has_collapsed(record: dict[str, Any], share: float = DEAD) -> bool:
    """Return whether a run ended with at least `share` dead channels and by guessing."""
    guessing = GUESSING * math.log(record["classes"])
    return dead_share(record) >= share and final_loss(record) >= guessing


def collapse_step(record: dict[str, Any]) -> int | None:
    """Return the step of the first probe at which the run has collapsed, or None.

    A run that diverged without collapsing before is dated by its first infinite loss.
    """
    probes, guessing = record["probes"], GUESSING * math.log(record["classes"])
    rows = zip(probes["step"], probes["pool_dead"], probes["loss"], strict=True)
    for step, dead, loss in rows:
        if dead is not None and dead >= DEAD and (loss is None or loss >= guessing):
            return int(step)
    if has_diverged(record):
        return len(record["loss"]) * record["loss_every"]
    return None


def steps_to(record: dict[str, Any], accuracy: float) -> int:
    """Return the step of the first probe with an accuracy on the probe images.

    A run that does not reach it counts as one step more than it took.
    """
    for step, reached in zip(
        record["probes"]["step"], record["probes"]["accuracy"], strict=True
    ):
        if reached is not None and reached >= accuracy:
            return int(step)
    return int(record["run"]["steps"]) + 1


def last_finite(values: Sequence[float | None]) -> float:
    """Return the last value that is a number, or NaN if there is none."""
    numbers = [x for x in values if x is not None and math.isfinite(x)]
    return float(numbers[-1]) if numbers else math.nan
