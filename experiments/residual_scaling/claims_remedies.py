# SPDX-License-Identifier: Apache-2.0
"""Claims 4, 5, 7 and 9: remedies for unscaled networks, other than scaling."""

import math
from dataclasses import replace

from experiments.residual_scaling.comparisons import (
    Match,
    compare_each_change,
    compare_outcomes,
    group_by,
    group_matches,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE
from experiments.residual_scaling.records import Records, select
from experiments.residual_scaling.runs import Run
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
    lowered = group_matches(
        _lowered(without_remedies(select(records, scale=1.0))), _lowering
    )
    for (factor, length), matches in sorted(lowered.items()):
        setting = (
            f"learning rate / {factor}, {length:.3g} times the steps, so "
            f"{length / factor:.3g} times the steps x rate"
        )
        row = compare_outcomes(4, setting, matches, FAILED, claimed=False)
        if row.verdict == CONTRADICTED and length < factor:
            row = replace(row, verdict=UNDECIDED, qualifier="over a smaller steps x rate")
        rows.append(row)
    reason = "no unscaled run beside one at a tenth or a hundredth of its learning rate"
    return rows or [not_tested(4, reason)]


def _lowered(records: Records) -> list[Match]:
    """Settings beside the same at a rate a factor higher, of about as much steps x rate."""
    settings = group_by(records, lambda run: run.setting)
    matches = []
    for family in group_by(settings, _but_rate_and_length).values():
        for low in family:
            for factor in FACTORS:
                higher = [
                    run
                    for run in family
                    if math.isclose(run.learning_rate, factor * low.learning_rate)
                ]
                if higher:
                    base = min(higher, key=lambda run: abs(math.log(_way(run) / _way(low))))
                    matches.append(Match(base, low, settings[base], settings[low]))
    return matches


def _way(run: Run) -> float:
    """Steps x learning rate: how far a run could go."""
    return run.steps * run.learning_rate


def _but_rate_and_length(run: Run) -> Run:
    return replace(run, learning_rate=1.0, steps=1, probe_every=1)


def _lowering(match: Match) -> tuple[int, float]:
    """By what factor the rate is lower, and how many times the steps it has."""
    low, base = match.changed, match.base
    return round(base.learning_rate / low.learning_rate), low.steps / base.steps


def claim_5(records: Records) -> list[Verdict]:
    """Batch norm before the pool, in front of its ReLU or behind it."""
    runs = without_remedies(select(records, scale=1.0), "pool_norm")
    rows = compare_each_change(5, runs, FAILED, claimed=False, pool_norm="none")
    return rows or [not_tested(5, "no unscaled run with an extra batch norm beside one")]


def claim_7(records: Records) -> list[Verdict]:
    """The paper's two phases and a linear ramp."""
    runs = without_remedies(select(records, scale=1.0), "warmup_steps")
    none = {"warmup": "constant", "warmup_steps": 0, "warmup_rate": 1e-5}
    rows = compare_each_change(7, runs, FAILED, claimed=False, **none)
    return rows or [not_tested(7, "no unscaled run with warm-up beside one without")]


def claim_9(records: Records) -> list[Verdict]:
    """Clipping of the gradient's norm: does it keep alive, does it keep stable?"""
    runs = without_remedies(select(records, scale=1.0), "clip_norm")
    rows = [
        row
        for outcomes in (FAILED, UNSTABLE)
        for row in compare_each_change(9, runs, outcomes, claimed=True, clip_norm=None)
    ]
    return rows or [not_tested(9, "no unscaled run with clipping beside one without")]
