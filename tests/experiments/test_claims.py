# SPDX-License-Identifier: Apache-2.0
"""Verdicts on which networks die and what prevents it."""

import re
from dataclasses import replace

import pytest

from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
)
from tests.experiments.made_records import (
    CHANCE,
    DEAD,
    EIGHT,
    HALF,
    IMPAIRED,
    only,
    repeat,
    rows,
)


@pytest.mark.parametrize(
    ("died", "outcome", "verdict", "qualifier"),
    [
        (16, HALF, REPRODUCED, "half dead rather than dead"),
        (16, DEAD, REPRODUCED, ""),
        (0, HALF, NOT_REPRODUCED, ""),
        (8, HALF, UNDECIDED, ""),
    ],
)
def test_wide_networks_die(died, outcome, verdict, qualifier):
    run = replace(EIGHT, learning_rate=0.2)
    row = only(repeat(run, died, 16, outcome), 1)
    assert (row.verdict, row.qualifier) == (verdict, qualifier)
    assert f"failed {died}/16" in row.evidence


@pytest.mark.parametrize(
    ("steps", "verdict"), [(9_999, UNDECIDED), (10_000, NOT_REPRODUCED)]
)
def test_short_survival_at_the_papers_rate_is_not_evidence(steps, verdict):
    assert only(repeat(replace(EIGHT, steps=steps), 0, 16), 1).verdict == verdict


@pytest.mark.parametrize(
    ("narrow", "wide", "verdict", "qualifier"),
    [
        (0, 12, REPRODUCED, ""),
        (12, 12, CONTRADICTED, "most narrow runs failed too"),
        (0, 0, NOT_TESTED, "no run failed, narrow or wide"),
        (12, 0, CONTRADICTED, "more narrow runs failed"),
        (6, 6, UNDECIDED, ""),
    ],
)
def test_narrow_networks_survive(narrow, wide, verdict, qualifier):
    records = repeat(Run(width=64), narrow, 12) | repeat(EIGHT, wide, 12)
    row = only(records, 1, "narrower")
    assert (row.verdict, row.qualifier) == (verdict, qualifier)
    assert f"width 64 {narrow}/12" in row.evidence
    assert f"failed {wide}/12" in only(records, 1, "more than 1000").evidence


def test_threshold_lies_between_the_widths_that_live_and_those_that_die():
    records = repeat(Run(width=64), 0) | repeat(Run(width=256), 8) | repeat(EIGHT, 8)
    evidence = only(records, 1, "narrower").evidence
    assert re.search(r"half of them at width 1\d\d(\.\d)? \[64, 256\]", evidence), evidence


def test_claim_1_separates_initialisers_rates_and_remedies():
    records = {}
    for init in ("he", "glorot"):
        for rate in (0.045, 0.2):
            run = Run(width=2048, init=init, learning_rate=rate)
            records |= repeat(run, 5 if init == "he" else 0, 5)
    records |= repeat(Run(width=2048, clip_norm=1.0), 0, 5)
    records |= repeat(Run(width=2048, head="published"), 0, 5)  # no ReLU before the pool
    shown = [row.evidence.split(" [")[0][-3:] for row in rows(records, 1)]
    assert sorted(shown) == ["0/5", "0/5", "5/5", "5/5"]


@pytest.mark.parametrize(
    ("dead", "verdict"), [(12, REPRODUCED), (0, NOT_REPRODUCED), (6, UNDECIDED)]
)
def test_failing_networks_give_only_zeros(dead, verdict):
    records = repeat(Run(), dead, 12, DEAD, CHANCE) | repeat(Run(width=64), 0)
    row = only(records, 2, "only zeros")
    assert row.verdict == verdict
    assert f"dead {dead}/12" in row.evidence


@pytest.mark.parametrize(
    ("recovered", "verdict", "qualifier"),
    [
        (0, REPRODUCED, ""),
        (1, REPRODUCED, "some recover"),
        (14, CONTRADICTED, ""),
        (7, UNDECIDED, ""),
    ],
)
def test_dead_networks_stay_dead(recovered, verdict, qualifier):
    records = repeat(Run(steps=400), 14, 14, DEAD)
    for run, made in records.items():
        made["recovered"] = run.seed < recovered
    row = only(records | repeat(Run(steps=399), 14, 14), 2, "stays dead")
    assert (row.verdict, row.qualifier) == (verdict, qualifier)
    assert f"recovered {recovered}/14" in row.evidence


@pytest.mark.parametrize(
    ("death", "verdict", "qualifier"),
    [
        (25_000, REPRODUCED, ""),
        (60, CONTRADICTED, "they die sooner"),
        (None, NOT_REPRODUCED, ""),
    ],
)
def test_death_after_tens_of_thousands_of_steps(death, verdict, qualifier):
    records = repeat(replace(EIGHT, steps=30_000), 8, death=death, bad=CHANCE)
    row = only(records, 3)
    assert (row.verdict, row.qualifier) == (verdict, qualifier)


def test_long_survival_of_narrow_networks_is_not_evidence():
    row = only(repeat(Run(width=64, steps=30_000), 0), 3)
    assert row.verdict == UNDECIDED


def test_short_runs_are_not_evidence_on_long_ones():
    short = Run(learning_rate=0.2)
    row = only(repeat(short, 8, death=30) | repeat(Run(steps=9_999), 8), 3)
    assert row.verdict == NOT_TESTED
    assert "(accelerated): median steps to death 30 [30, 30] (n = 8)" in row.evidence
    assert (row.setting, len(row.details)) == ("unscaled runs", 2)


REMEDIES = [
    (4, "/ 10", {"learning_rate": 0.0045, "steps": 800}),
    (4, "/ 100", {"learning_rate": 0.00045, "steps": 8000}),
    (5, "before", {"pool_norm": "before_relu"}),
    (5, "after", {"pool_norm": "after_relu"}),
    (7, "constant", {"warmup_steps": 20}),
    (7, "linear", {"warmup": "linear", "warmup_steps": 20, "warmup_rate": 1e-3}),
]


@pytest.mark.parametrize(("number", "setting", "change"), REMEDIES)
@pytest.mark.parametrize(
    ("without", "with_it", "verdict"),
    [
        (12, 0, CONTRADICTED),
        (12, 12, REPRODUCED),
        (12, 6, UNDECIDED),
        (0, 12, REPRODUCED),
        (0, 0, NOT_TESTED),
    ],
)
def test_remedies_that_should_fail(number, setting, change, without, with_it, verdict):
    records = repeat(Run(), without, 12) | repeat(Run(**change), with_it, 12)
    assert only(records, number, setting).verdict == verdict


def test_a_lower_rate_is_judged_by_steps_times_rate():
    low = Run(learning_rate=0.0045)
    row = only(repeat(Run(), 8) | repeat(low, 0), 4)
    assert (row.verdict, row.qualifier) == (UNDECIDED, "fewer steps x rate")
    assert "0.1 times the steps x rate" in row.setting
    row = only(repeat(Run(), 8) | repeat(replace(low, steps=800, probe_every=100), 0), 4)
    assert (row.verdict, row.qualifier) == (CONTRADICTED, "")
    assert "10 times the steps (1 times the steps x rate)" in row.setting


HELPS = [
    (6, "failed runs, scale 0.1 against 1", {"scale": 0.1}),
    (6, "failed runs, scale as published against 1", {"scale": None}),
    (6, "scale 1/sqrt(depth) (not one of", {"scale": 10**-0.5}),
    (9, "clip norm 1", {"clip_norm": 1.0}),
    (11, "classifier rate 0.05", {"classifier_rate": 0.05}),
    (11, "init gain 0.1", {"init_gain": 0.1}),
]


@pytest.mark.parametrize(("number", "setting", "change"), HELPS)
@pytest.mark.parametrize(
    ("without", "with_it", "verdict"),
    [
        (12, 0, REPRODUCED),
        (12, 12, CONTRADICTED),
        (12, 6, UNDECIDED),
        (0, 12, CONTRADICTED),
        (0, 0, NOT_TESTED),
    ],
)
def test_remedies_that_should_help(number, setting, change, without, with_it, verdict):
    records = repeat(Run(), without, 12) | repeat(Run(**change), with_it, 12)
    assert {row.verdict for row in rows(records, number, setting)} == {verdict}


def test_a_remedy_with_which_all_five_seeds_fail_is_not_reproduced():
    row = only(repeat(Run(), 5, 5) | repeat(Run(scale=0.1), 5, 5), 6, "failed runs")
    assert row.verdict == NOT_REPRODUCED
    row = only(repeat(Run(), 5, 5) | repeat(Run(pool_norm="after_relu"), 5, 5), 5)
    assert row.verdict == UNDECIDED  # the claim says that it does not help


def test_a_remedy_is_not_judged_where_nothing_failed():
    records = repeat(Run(), 12, 12) | repeat(Run(scale=0.1), 6, 12)
    records |= repeat(Run(width=64), 4, 12) | repeat(Run(width=64, scale=0.1), 12, 12)
    assert only(records, 6, "failed runs").verdict == UNDECIDED


def test_slower_residuals_stay_unstable():
    slow = Run(linear_rate=0.01)
    records = repeat(Run(), 12, 12) | repeat(slow, 12, 12, bad=IMPAIRED)
    assert only(records, 11, "linear rate").verdict == REPRODUCED


def test_instability_counts_impaired_runs():
    records = repeat(Run(), 8, bad=IMPAIRED) | repeat(Run(scale=0.1), 0)
    assert only(records, 6, "unstable runs").verdict == REPRODUCED
    assert only(records, 6, "failed runs").verdict == NOT_TESTED


def test_strata_are_pooled_but_not_across_rates():
    records = {}
    for width in (64, 256):
        for rate in (0.045, 0.1, 0.2):
            run = Run(width=width, learning_rate=rate)
            died = 5 if rate > 0.045 else 0
            records |= repeat(run, died, 5) | repeat(replace(run, scale=0.1), 0, 5)
    fast = only(records, 6, "failed runs, scale 0.1 against 1; learning rate: accelerated")
    assert fast.verdict == REPRODUCED
    assert "20/20" in fast.evidence
    assert "0/20" in fast.evidence
    assert "of 20 seed pairs 20 only without, 0 only with" in fast.evidence
    assert len(fast.details) == 4
    assert (
        only(
            records, 6, "failed runs, scale 0.1 against 1; learning rate: the paper's"
        ).verdict
        == NOT_TESTED
    )


def test_a_lower_rate_is_compared_with_equal_steps_times_rate():
    long = {"steps": 800, "probe_every": 100}
    high = repeat(Run(), 8) | repeat(Run(**long), 0)
    row = only(high | repeat(Run(learning_rate=0.0045, **long), 0), 4)
    assert "10 times the steps (1 times the steps x rate)" in row.setting
    assert row.verdict == CONTRADICTED
