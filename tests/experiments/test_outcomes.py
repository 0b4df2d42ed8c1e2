# SPDX-License-Identifier: Apache-2.0
"""Outcomes of runs, by the rules."""

import math

import pytest

from experiments.residual_scaling.outcomes import Outcome, history

LEARNING = [2.3, 2.0, 1.5, 1.0] + [0.5] * 10
GUESSING = [2.3] * 14


def history_of(loss, dead, classes=10):
    return history(loss, dead, range(0, 10 * len(dead), 10), classes)


@pytest.mark.parametrize(
    ("loss", "dead", "expected"),
    [
        (LEARNING, [0, 0, 0, 0], Outcome.HEALTHY),
        ([2.3, math.nan, *LEARNING], [0, 0], Outcome.DIVERGED),
        ([2.3, math.inf, *LEARNING], [0, 0], Outcome.DIVERGED),
        (GUESSING, [0, 0.99, 1.0, 1.0], Outcome.DEAD),
        (GUESSING, [0, 0.98, 1.0, 1.0], Outcome.HALF_DEAD),  # dead at only two probes
        (GUESSING, [1.0, 1.0, 1.0, 0.2], Outcome.CHANCE),  # recovered, but learned nothing
        (LEARNING, [0, 0, 0.5], Outcome.HALF_DEAD),
        (GUESSING, [0, 0, 0], Outcome.CHANCE),
        ([2.3, 4.7, *LEARNING], [0, 0, 0], Outcome.IMPAIRED),
        (LEARNING, [0, 0.05, 0], Outcome.IMPAIRED),
        ([2.3, 4.6, *LEARNING], [0, 0.049, 0], Outcome.HEALTHY),
        ([2.27] * 14, [0, 0, 0], Outcome.HEALTHY),  # 0.99 ln(10) is 2.2796
        ([2.28] * 14, [0, 0, 0], Outcome.CHANCE),
        (3 * GUESSING + [0.5] * 10, [0, 0, 0], Outcome.HEALTHY),  # the last ten steps count
        (LEARNING + [2.3] * 9 + [2.2], [0, 0, 0], Outcome.CHANCE),
        (GUESSING, [1.0, 1.0], Outcome.HALF_DEAD),  # too few probes
        (GUESSING, [0, 0, 1.0, 1.0, 1.0], Outcome.DEAD),
    ],
)
def test_outcomes_follow_the_rules(loss, dead, expected):
    assert history_of(loss, dead).outcome == expected


def test_guessing_depends_on_the_number_of_classes():
    assert history_of(GUESSING, [0, 0, 0], classes=100).outcome == Outcome.HEALTHY


@pytest.mark.parametrize(
    ("dead", "death_step", "recovered"),
    [
        ([0, 0.1, 0.2], None, False),
        ([0, 0.6, 0.7, 0.9], 10, False),
        ([0, 0.6, 0.1, 0.9], 30, False),  # the last period counts
        ([0, 0.6, 0.9, 0.1], None, True),
    ],
)
def test_death_is_dated_and_recovery_is_history_of(dead, death_step, recovered):
    history = history_of(GUESSING, dead)
    assert (history.death_step, history.recovered) == (death_step, recovered)


def test_divergence_is_dated_by_the_loss():
    history = history_of([2.3, 5.0, math.nan], [0, 0])
    assert (history.death_step, history.recovered) == (3, False)
