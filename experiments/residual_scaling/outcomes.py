# SPDX-License-Identifier: Apache-2.0
"""What happened to an arm, by written rules on its loss and its dead channels."""

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import mean

NUM_CLASSES = 10
WINDOW = 10  # steps over which the final loss is averaged


class Outcome(StrEnum):
    """Label of an arm; the first rule that holds, from top to bottom.

    A channel is dead when its value before the average pool is exactly zero at every
    position of every probe image.
    """

    DIVERGED = "diverged"  # a loss that is not a number or infinite
    DEAD = "dead"  # 99 % of the channels or more, at each of the last three probes
    PART_DEAD = "part dead"  # half of the channels or more, at the last probe
    CHANCE = "chance"  # final loss no better than guessing: 0.99 ln(classes) or more
    SCARRED = "scarred"  # learns, but the loss once doubled or 5 % of the channels died
    HEALTHY = "healthy"


DYING = (Outcome.DIVERGED, Outcome.DEAD, Outcome.PART_DEAD)


def outcome(loss: Sequence[float], dead_fraction: Sequence[float]) -> Outcome:
    """Label of an arm from its loss per step and its dead fraction per probe."""
    if not all(math.isfinite(value) for value in loss):
        return Outcome.DIVERGED
    if len(dead_fraction) >= 3 and min(dead_fraction[-3:]) >= 0.99:
        return Outcome.DEAD
    if dead_fraction[-1] >= 0.5:
        return Outcome.PART_DEAD
    if mean(loss[-WINDOW:]) >= 0.99 * math.log(NUM_CLASSES):
        return Outcome.CHANCE
    if max(loss) > 2 * loss[0] or max(dead_fraction) >= 0.05:
        return Outcome.SCARRED
    return Outcome.HEALTHY
