# SPDX-License-Identifier: Apache-2.0
"""Claims 4, 5, 7 and 9: remedies for unscaled networks, other than scaling."""

import math
from dataclasses import replace

from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.comparisons import (
    Match,
    grouped,
    helped,
    matches_by,
    remedy,
    standard,
)
from experiments.residual_scaling.outcomes import DYING, UNSTABLE
from experiments.residual_scaling.records import Records, pick
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    UNDECIDED,
    Verdict,
    not_tested,
)

FACTORS = (10, 100)  # by which claim 4 lowers the learning rate


def claim_4(records: Records) -> list[Verdict]:
    """A tenth and a hundredth of the learning rate, over as many steps or over more."""
    rows = []
    lowered = matches_by(_lowered(standard(pick(records, scale=1.0))), _lowering)
    for (factor, length), matches in sorted(lowered.items()):
        setting = (
            f"learning rate / {factor}, {length:.3g} times the steps, so "
            f"{length / factor:.3g} times the steps x rate"
        )
        row = helped(4, setting, matches, DYING, claimed=False)
        if row.verdict == CONTRADICTED and length < factor:
            row = replace(row, verdict=UNDECIDED, qualifier="over a smaller steps x rate")
        rows.append(row)
    reason = "no unscaled arm beside one at a tenth or a hundredth of its learning rate"
    return rows or [not_tested(4, reason)]


def _lowered(records: Records) -> list[Match]:
    """Settings beside the same at a rate a factor higher, of about as much steps x rate."""
    settings = grouped(records, lambda arm: arm.setting)
    matches = []
    for family in grouped(settings, _but_rate_and_length).values():
        for low in family:
            for factor in FACTORS:
                higher = [
                    arm
                    for arm in family
                    if math.isclose(arm.learning_rate, factor * low.learning_rate)
                ]
                if higher:
                    base = min(higher, key=lambda arm: abs(math.log(_way(arm) / _way(low))))
                    matches.append(Match(base, low, settings[base], settings[low]))
    return matches


def _way(arm: Arm) -> float:
    """Steps x learning rate: how far an arm could go."""
    return arm.steps * arm.learning_rate


def _but_rate_and_length(arm: Arm) -> Arm:
    return replace(arm, learning_rate=1.0, steps=1, probe_every=1)


def _lowering(match: Match) -> tuple[int, float]:
    """By what factor the rate is lower, and how many times the steps it has."""
    low, base = match.changed, match.base
    return round(base.learning_rate / low.learning_rate), low.steps / base.steps


def claim_5(records: Records) -> list[Verdict]:
    """Batch norm before the pool, in front of its ReLU or behind it."""
    arms = standard(pick(records, scale=1.0), "pool_norm")
    rows = remedy(5, arms, DYING, claimed=False, pool_norm="none")
    return rows or [not_tested(5, "no unscaled arm with an extra batch norm beside one")]


def claim_7(records: Records) -> list[Verdict]:
    """The paper's two phases and a linear ramp."""
    arms = standard(pick(records, scale=1.0), "warmup_steps")
    none = {"warmup": "constant", "warmup_steps": 0, "warmup_rate": 1e-5}
    rows = remedy(7, arms, DYING, claimed=False, **none)
    return rows or [not_tested(7, "no unscaled arm with warm-up beside one without")]


def claim_9(records: Records) -> list[Verdict]:
    """Clipping of the gradient's norm: does it keep alive, does it keep stable?"""
    arms = standard(pick(records, scale=1.0), "clip_norm")
    rows = [
        row
        for outcomes in (DYING, UNSTABLE)
        for row in remedy(9, arms, outcomes, claimed=True, clip_norm=None)
    ]
    return rows or [not_tested(9, "no unscaled arm with clipping beside one without")]
