# SPDX-License-Identifier: Apache-2.0
"""What happened to a run, by written rules on its loss and its dead channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import mean

WINDOW = 10  # steps over which the final loss is averaged
ALL, HALF, SOME = 0.99, 0.5, 0.05  # shares of dead channels


class Outcome(StrEnum):
    """Label of a run: the first of `RULES` that holds, from top to bottom.

    A channel is dead when its value before the average pool is exactly zero at every
    position of every probe image.
    """

    DIVERGED = "diverged"
    DEAD = "dead"
    HALF_DEAD = "half dead"
    CHANCE = "chance"
    IMPAIRED = "impaired"
    HEALTHY = "healthy"


RULES = {
    Outcome.DIVERGED: "a loss that is not a number, or infinite",
    Outcome.DEAD: "99 % of the channels before the average pool, or more, are zero for "
    "every probe image, at each of the last three probes",
    Outcome.HALF_DEAD: "half of the channels or more, at the last probe",
    Outcome.CHANCE: "a final loss no better than guessing: 99 % of ln(classes), or more",
    Outcome.IMPAIRED: "learns, but the loss once doubled or 5 % of the channels died",
    Outcome.HEALTHY: "none of these",
}
FAILED = (Outcome.DIVERGED, Outcome.DEAD, Outcome.HALF_DEAD)
UNSTABLE = (*FAILED, Outcome.CHANCE, Outcome.IMPAIRED)


@dataclass(frozen=True)
class History:
    """The label of a run, and what led to it."""

    outcome: Outcome
    # The first probe of the last stretch of probes with half of the channels dead.
    death_step: int | None
    # Whether half of the channels were once dead and are not any more.
    recovered: bool


def history(
    loss: Sequence[float],
    dead_fraction: Sequence[float],
    probe_steps: Sequence[int],
    num_classes: int,
) -> History:
    """What became of a run, from its loss per step and its dead fraction per probe.

    A loss that is not finite ends a run: `loss` may stop there, and the death is dated
    by it.
    """
    if not all(math.isfinite(value) for value in loss):
        step = next(i for i, value in enumerate(loss, 1) if not math.isfinite(value))
        return History(Outcome.DIVERGED, step, recovered=False)
    bad = [fraction >= HALF for fraction in dead_fraction]
    death = None
    for step, dying in zip(reversed(probe_steps), reversed(bad), strict=True):
        if not dying:
            break
        death = step
    recovered = any(bad) and not bad[-1]
    return History(_outcome(loss, dead_fraction, num_classes), death, recovered)


def _outcome(
    loss: Sequence[float], dead_fraction: Sequence[float], num_classes: int
) -> Outcome:
    if len(dead_fraction) >= 3 and min(dead_fraction[-3:]) >= ALL:
        return Outcome.DEAD
    if dead_fraction[-1] >= HALF:
        return Outcome.HALF_DEAD
    if mean(loss[-WINDOW:]) >= 0.99 * math.log(num_classes):
        return Outcome.CHANCE
    if max(loss) > 2 * loss[0] or max(dead_fraction) >= SOME:
        return Outcome.IMPAIRED
    return Outcome.HEALTHY
