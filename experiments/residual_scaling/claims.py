# SPDX-License-Identifier: Apache-2.0
"""The paper's claims, and what the runs on record say of each.

Every verdict is computed: from a test over the seeds, whose p-value is corrected for the
number of all verdicts of a report (Holm), or, for "not reproduced", from an interval. A
row with fewer than five seeds on a side stays undecided.
"""

from dataclasses import replace

from experiments.residual_scaling.claims_convergence import claim_12
from experiments.residual_scaling.claims_death import claim_1, claim_2, claim_3
from experiments.residual_scaling.claims_depth import claim_10
from experiments.residual_scaling.claims_mechanism import claim_11
from experiments.residual_scaling.claims_remedies import (
    claim_4,
    claim_5,
    claim_7,
    claim_9,
)
from experiments.residual_scaling.claims_scaling import claim_6, claim_8
from experiments.residual_scaling.records import Records
from experiments.residual_scaling.statistics import LEVEL, holm
from experiments.residual_scaling.verdicts import (
    MIN_SEEDS,
    UNDECIDED,
    Verdict,
)


def judge(records: Records) -> list[Verdict]:
    """Verdicts on all claims, in their order; each has a row at least."""
    rows = [
        row
        for claim in (
            *(claim_1, claim_2, claim_3, claim_4, claim_5, claim_6),
            *(claim_7, claim_8, claim_9, claim_10, claim_11, claim_12),
        )
        for row in claim(records)
    ]
    corrected = iter(holm([row.p for row in rows if row.p is not None]))
    return [
        row if row.p is None else _decided(replace(row, p_holm=next(corrected)))
        for row in rows
    ]


def _decided(row: Verdict) -> Verdict:
    """The row with the verdict that its seeds and its corrected p-value allow."""
    if row.seeds < MIN_SEEDS:
        few = f"{row.seeds} of {MIN_SEEDS} seeds"
        return replace(row, verdict=UNDECIDED, qualifier=few)
    if row.p_holm < LEVEL:
        return row
    evidence = row.evidence
    if row.p < LEVEL:
        evidence += "; below 5 % only before Holm's correction"
    return replace(row, verdict=row.otherwise, qualifier="", evidence=evidence)
