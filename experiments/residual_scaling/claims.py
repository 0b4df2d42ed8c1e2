# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the paper's claims, computed from records.

Each verdict rests on a test whose p-value is corrected for the number of tests of a report
(Holm) or, if "not reproduced", on an interval. A comparison with fewer than five seeds in a
group is undecided.
"""

from dataclasses import replace

from experiments.residual_scaling.claims_convergence import claim_12
from experiments.residual_scaling.claims_death import claim_1, claim_2, claim_3
from experiments.residual_scaling.claims_depth import claim_10
from experiments.residual_scaling.claims_mechanism import claim_11
from experiments.residual_scaling.claims_remedies import claim_4, claim_5, claim_7, claim_9
from experiments.residual_scaling.claims_scaling import claim_6, claim_8
from experiments.residual_scaling.records import Records
from experiments.residual_scaling.statistics import LEVEL, holm
from experiments.residual_scaling.verdicts import (
    MIN_SEEDS,
    NOT_REPRODUCED,
    UNDECIDED,
    Verdict,
)


def judge(records: Records) -> list[Verdict]:
    """Return verdicts on all claims, in order, with at least one for each claim."""
    claims = (claim_1, claim_2, claim_3, claim_4, claim_5, claim_6)
    claims += (claim_7, claim_8, claim_9, claim_10, claim_11, claim_12)
    rows = [row for claim in claims for row in claim(records)]
    corrected = iter(holm([row.p for row in rows if row.p is not None]))
    return [
        row if row.p is None else _final(replace(row, p_holm=next(corrected)))
        for row in rows
    ]


def _final(row: Verdict) -> Verdict:
    """Replace the verdict of `row` if seeds or the corrected p-value do not support it."""
    if row.seeds < MIN_SEEDS:
        qualifier = f"{row.seeds} of {MIN_SEEDS} seeds"
        return replace(row, verdict=UNDECIDED, qualifier=qualifier)
    if row.p_holm < LEVEL:
        return row
    evidence = row.evidence
    if row.p < LEVEL:
        evidence += "; significant only before Holm's correction"
    verdict = NOT_REPRODUCED if row.excluded else UNDECIDED
    return replace(row, verdict=verdict, qualifier="", evidence=evidence)
