# SPDX-License-Identifier: Apache-2.0
"""Outcomes of runs, from their losses and their dead channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import mean

WINDOW = 10  # steps over which the final loss is averaged
ALL, HALF, SOME = 0.99, 0.5, 0.05  # shares of dead channels (`diagnostics.dead_channels`)


class Outcome(StrEnum):
    """The outcome of a run: the first of `RULES` that holds."""

    DIVERGED = "diverged"
    DEAD = "dead"
    HALF_DEAD = "half dead"
    CHANCE = "chance"
    IMPAIRED = "impaired"
    HEALTHY = "healthy"


RULES = {
    Outcome.DIVERGED: "the loss is NaN or infinite",
    Outcome.DEAD: "at each of the last three probes at least 99 % of the channels are dead",
    Outcome.HALF_DEAD: "at the last probe at least half of the channels are dead",
    Outcome.CHANCE: "the final loss is at least 99 % of ln(classes), the loss of guessing",
    Outcome.IMPAIRED: "the loss at some step exceeded twice its first value, or at some "
    "probe at least 5 % of the channels were dead",
    Outcome.HEALTHY: "none of these",
}
FAILED = (Outcome.DIVERGED, Outcome.DEAD, Outcome.HALF_DEAD)
UNSTABLE = (*FAILED, Outcome.CHANCE, Outcome.IMPAIRED)


def word_for(outcomes: Sequence[Outcome]) -> str:
    """Return the name of a group of outcomes: "failed" or "unstable"."""
    return "failed" if tuple(outcomes) == FAILED else "unstable"


@dataclass(frozen=True)
class History:
    """The outcome of a run, and when its channels died."""

    outcome: Outcome
    # Step of the first probe from which at least half of the channels stayed dead, or of
    # the first loss that is not finite.
    death_step: int | None
    # Whether half of the channels were dead at some probe but not at the last one.
    recovered: bool


def history(
    loss: Sequence[float],
    dead_fraction: Sequence[float],
    probe_steps: Sequence[int],
    num_classes: int,
) -> History:
    """Determine the outcome from the loss per step and the dead fraction per probe.

    `loss` may end at its first value that is not finite.
    """
    if not all(math.isfinite(value) for value in loss):
        step = next(i for i, value in enumerate(loss, 1) if not math.isfinite(value))
        return History(Outcome.DIVERGED, step, recovered=False)
    bad = [fraction >= HALF for fraction in dead_fraction]
    death = None
    for step, half_dead in zip(reversed(probe_steps), reversed(bad), strict=True):
        if not half_dead:
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
