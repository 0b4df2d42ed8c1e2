# SPDX-License-Identifier: Apache-2.0
"""Claims 4, 5, 7 and 9: remedies for unscaled networks, other than scaling."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from experiments.residual_scaling.comparisons import (
    Match,
    compare_each_change,
    compare_outcomes,
    group_by,
    group_matches,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome
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
    lowered = _lowered(without_remedies(select(records, scale=1.0)))
    for (factor, length), matches in sorted(group_matches(lowered, _lowering).items()):
        setting = (
            f"failed runs, learning rate / {factor}, {length:.3g} times the steps "
            f"({length / factor:.3g} times the steps x rate)"
        )
        row = compare_outcomes(4, setting, matches, FAILED, claimed=False)
        if row.verdict == CONTRADICTED and length < factor:
            row = replace(row, verdict=UNDECIDED, qualifier="fewer steps x rate")
        rows.append(row)
    rates = "a tenth or a hundredth of its learning rate"
    return rows or [not_tested(4, f"no unscaled run has a counterpart at {rates}")]


def _lowered(records: Records) -> list[Match]:
    """Match settings with those at a higher rate whose steps x rate is closest."""
    settings = group_by(records, lambda run: run.setting)
    matches = []
    alike = {"learning_rate": 1.0, "steps": 1, "probe_every": 1}
    for family in group_by(settings, lambda run: replace(run, **alike)).values():
        for low, factor in product(family, FACTORS):
            rate = factor * low.learning_rate
            higher = [run for run in family if math.isclose(run.learning_rate, rate)]
            if higher:
                base = min(higher, key=lambda run: abs(math.log(_reach(run) / _reach(low))))
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
    options = {"claimed": False, "pool_norm": "none"}
    return _compare(5, records, "extra batch normalisation", FAILED, **options)


def claim_7(records: Records) -> list[Verdict]:
    """Compare two-phase and linear warm-up with no warm-up."""
    none = {"warmup": "constant", "warmup_steps": 0, "warmup_rate": 1e-5}
    return _compare(7, records, "warm-up", FAILED, claimed=False, **none)


def claim_9(records: Records) -> list[Verdict]:
    """Compare clipping of the gradient's norm with no clipping."""
    options = {"claimed": True, "clip_norm": None}
    return _compare(9, records, "clipping", FAILED, UNSTABLE, **options)


def _compare(
    number: int, records: Records, remedy: str, *groups: Sequence[Outcome], **options: Any
) -> list[Verdict]:
    """Compare each group of outcomes; for `options` see `compare_each_change`."""
    runs = without_remedies(select(records, scale=1.0), *options)
    rows = []
    for outcomes in groups:
        rows += compare_each_change(number, runs, outcomes, **options)
    reason = f"no unscaled run with {remedy} has a counterpart without"
    return rows or [not_tested(number, reason)]
