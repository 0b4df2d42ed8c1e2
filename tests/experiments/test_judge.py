# SPDX-License-Identifier: Apache-2.0
"""Verdicts on all claims: seeds, Holm's correction, any subset of runs."""

import math
import random
from dataclasses import replace

import pytest

from experiments.residual_scaling.claims import judge
from experiments.residual_scaling.comparisons import match_settings
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.verdicts import (
    CLAIMS,
    CONTRADICTED,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
)
from tests.experiments.made_records import DIVERGED, only, record, repeat
from tests.experiments.test_claims import HELPS, REMEDIES


def test_every_claim_has_a_verdict_without_runs():
    verdicts = judge({})
    assert [v.number for v in verdicts if "run" in v.evidence] == sorted(CLAIMS)
    assert {v.verdict for v in verdicts} == {NOT_TESTED}
    assert all(v.p is None and v.p_holm is None for v in verdicts)


@pytest.mark.parametrize("seeds", [2, 4])
def test_few_seeds_leave_claims_undecided(seeds):
    records = {}
    for width in (64, 128, 256, 512, 2048):
        base = Run(width=width)
        records |= repeat(base, seeds, seeds)
        for change in ({"scale": 0.1}, {"clip_norm": 1.0}, {"pool_norm": "after_relu"}):
            records |= repeat(replace(base, **change), 0, seeds)
    tested = [row for row in judge(records) if row.p is not None]
    assert min(row.p_holm for row in tested) < 0.01
    assert {row.verdict for row in tested} == {UNDECIDED}
    assert all(f"{seeds} of 5 seeds" == row.qualifier for row in tested)


def test_holm_corrects_for_all_tests():
    one = repeat(Run(), 5, 5) | repeat(Run(pool_norm="after_relu"), 0, 5)
    assert only(one, 5).p == pytest.approx(2 * 2 / 252)
    assert only(one, 5).verdict == CONTRADICTED
    many = dict(one)
    for clip in range(1, 9):
        many |= repeat(Run(clip_norm=float(clip)), 2, 5)
    row = only(many, 5)
    assert row.p == only(one, 5).p < 0.05 < row.p_holm
    assert row.verdict == UNDECIDED
    assert "significant only before Holm's correction" in row.evidence


def test_matched_settings_differ_only_in_the_named_fields():
    records = {
        Run(): {},
        Run(scale=0.1): {},
        Run(scale=0.1, seed=1): {},
        Run(scale=0.1, width=64): {},
        Run(scale=0.3, depth=4): {},
    }
    (match,) = match_settings(records, scale=1.0)
    assert (match.base, match.changed) == (Run(), Run(scale=0.1))
    assert list(match.with_it) == [Run(scale=0.1), Run(scale=0.1, seed=1)]


def everything() -> dict:
    """Runs of every kind, with missing and non-finite values."""
    rng = random.Random(1)
    changes = [change for *_, change in REMEDIES + HELPS]
    changes += [{}, {"depth": 4}, {"steps": 30_000}, {"steps": 400}, {"scale": 0.0}]
    changes += [{"block": "plain"}, {"block": "concat"}, {"linear_rate": 0.1}]
    changes += [{"data": "prototypes"}, {"init": "glorot"}, {"learned_scale": "scalar"}]
    made = {}
    for change in changes:
        for width in (64, 2048):
            for seed in range(5):
                run = replace(Run(width=width, seed=seed), **change)
                outcome = rng.choice(list(Outcome))
                made[run] = record(
                    outcome,
                    accuracy=rng.random(),
                    reached=rng.choice([None, 10, 20]),
                    curvature=rng.choice([None, math.exp(rng.uniform(0, 6))]),
                )
                made[run]["recovered"] = rng.random() < 0.5
                if rng.random() < 0.1:
                    del made[run]["test"]
                elif rng.random() < 0.1:
                    made[run]["test"]["top1_sum"] = None
                if rng.random() < 0.1:
                    del made[run]["probes"]["accuracy"], made[run]["probes"]["curvature"]
                if outcome == DIVERGED:
                    made[run]["probes"]["pool_dead"] = [0.0, None]
                    made[run]["death_step"] = 7
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 10, 30, 100, 200])
@pytest.mark.slow
def test_any_subset_of_runs_is_judged(size):
    rng = random.Random(size)
    made = everything()
    for _ in range(300 // (size + 50)):
        some = dict(rng.sample(list(made.items()), min(size, len(made))))
        verdicts = judge(some)
        assert {row.number for row in verdicts} == set(CLAIMS)
        for row in verdicts:
            assert row.verdict in (
                *(REPRODUCED, CONTRADICTED, NOT_REPRODUCED, UNDECIDED, NOT_TESTED),
            )
            assert (row.p is None) == (row.p_holm is None) == (row.verdict == NOT_TESTED)
            assert row.p is None or 0 <= row.p <= row.p_holm <= 1
            assert row.claim
            assert row.evidence
            assert "nan" not in row.evidence
            assert "inf" not in row.evidence
