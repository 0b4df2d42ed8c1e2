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

FACTORS = (10, 100)  # by which the learning rate is lowered


def claim_4(records: Records) -> list[Verdict]:
    """Compare a tenth and a hundredth of the learning rate, over as many or more steps."""
    rows = []
    lowered = group_matches(
        _lowered(without_remedies(select(records, scale=1.0))), _lowering
    )
    for (factor, length), matches in sorted(lowered.items()):
        setting = (
            f"failed runs, learning rate / {factor}, {length:.3g} times the steps "
            f"({length / factor:.3g} times the steps x rate)"
        )
        row = compare_outcomes(4, setting, matches, FAILED, claimed=False)
        if row.verdict == CONTRADICTED and length < factor:
            row = replace(row, verdict=UNDECIDED, qualifier="fewer steps x rate")
        rows.append(row)
    reason = (
        "no unscaled run has a counterpart at a tenth or a hundredth of its learning rate"
    )
    return rows or [not_tested(4, reason)]


def _lowered(records: Records) -> list[Match]:
    """Match settings with those at a higher rate whose steps x rate is closest."""
    settings = group_by(records, lambda run: run.setting)
    matches = []
    alike = {"learning_rate": 1.0, "steps": 1, "probe_every": 1}
    for family in group_by(settings, lambda run: replace(run, **alike)).values():
        for low in family:
            for factor in FACTORS:
                higher = [
                    run
                    for run in family
                    if math.isclose(run.learning_rate, factor * low.learning_rate)
                ]
                if higher:
                    base = min(
                        higher, key=lambda run: abs(math.log(_reach(run) / _reach(low)))
                    )
                    matches.append(Match(base, low, settings[base], settings[low]))
    return matches


def _reach(run: Run) -> float:
    return run.steps * run.learning_rate


def _lowering(match: Match) -> tuple[int, float]:
    """Return the factors by which the rate is lower and the run is longer."""
    low, base = match.changed, match.base
    return round(base.learning_rate / low.learning_rate), low.steps / base.steps


def claim_5(records: Records) -> list[Verdict]:
    """Compare extra batch normalisation before and after the ReLU before the pool."""
    runs = without_remedies(select(records, scale=1.0), "pool_norm")
    rows = compare_each_change(5, runs, FAILED, claimed=False, pool_norm="none")
    return rows or [
        not_tested(
            5, "no unscaled run with extra batch normalisation has a counterpart without"
        )
    ]


def claim_7(records: Records) -> list[Verdict]:
    """Compare two-phase and linear warm-up with no warm-up."""
    runs = without_remedies(select(records, scale=1.0), "warmup_steps")
    none = {"warmup": "constant", "warmup_steps": 0, "warmup_rate": 1e-5}
    rows = compare_each_change(7, runs, FAILED, claimed=False, **none)
    return rows or [not_tested(7, "no unscaled run with warm-up has a counterpart without")]


def claim_9(records: Records) -> list[Verdict]:
    """Compare clipping of the gradient's norm with no clipping."""
    runs = without_remedies(select(records, scale=1.0), "clip_norm")
    rows = [
        row
        for outcomes in (FAILED, UNSTABLE)
        for row in compare_each_change(9, runs, outcomes, claimed=True, clip_norm=None)
    ]
    return rows or [
        not_tested(9, "no unscaled run with clipping has a counterpart without")
    ]
