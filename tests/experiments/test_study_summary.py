# SPDX-License-Identifier: Apache-2.0
"""The summary in words is computed from the tables."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.residual_scaling.design.claims import CLAIMS
from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.settings import FULL, NARROW, STALE
from experiments.residual_scaling.judge.tables import run_table
from experiments.residual_scaling.judge.tests import judge_claims
from experiments.residual_scaling.show.summary import (
    claim_lines,
    difference,
    joined,
    number,
    percent,
    sentences,
)
from tests.experiments.made_records import FULL_PLAN, made_record, made_records

NO_CLAIMS = pd.DataFrame()


def summary(shares: dict) -> list[str]:
    return sentences(
        run_table({run: made_record(run, d) for run, d in shares.items()}), NO_CLAIMS
    )


def test_full_networks_with_and_without_scaling():
    shares = {
        FULL: 0.96,
        replace(FULL, seed=1): 0.98,
        replace(FULL, seed=2): 0.97,
        replace(FULL, scale=0.1): 0.4,
        replace(FULL, width=536): 0.2,
        replace(FULL, image_size=149): 0.0,  # another setting
    }
    dead, accuracy, narrower = summary(shares)
    assert "97 % (96 to 98) dead channels before the pool without residual" in dead
    assert "40 % with a scale of 0.1: 3 of 3 runs collapsed against 0 of 1." in dead
    assert "after 80 updates" in dead
    assert accuracy == (
        "The accuracy of these runs on the probe images is 10 % without scaling and 85 % "
        "with a scale of 0.1."
    )
    assert "20 % dead channels at a width of 536" in narrower


def test_the_accuracy_is_that_on_the_probe_images():
    """Moving averages, with which the test images are evaluated, lag in short runs."""
    shares = {FULL: 0.97, replace(FULL, scale=0.1): 0.4}
    runs = run_table({run: made_record(run, dead) for run, dead in shares.items()})
    runs["probe_accuracy"] = [0.21, 0.77]
    assert "is 21 % without scaling and 77 % with" in sentences(runs, NO_CLAIMS)[1]


def test_replicas():
    shares = {STALE: 0.97, replace(STALE, scale=0.1): 0.01, NARROW: 0.03}
    (line,) = summary(shares)
    assert "97 % dead channels without scaling and 1 % with a scale of 0.1" in line
    assert "with one replica and without scaling it has 3 %" in line
    assert summary({STALE: 0.97}) == []


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.0},
        {"activation": "leaky_relu"},
        {"learned_scale": "scalar"},
        {"stagger": 15},
        {"clip_norm": 1.0},
        {"data": "endless"},
    ],
    ids=str,
)
def test_runs_with_another_change_are_not_in_the_sentences(change):
    shares = {STALE: 0.97, replace(STALE, scale=0.1): 0.01}
    remedies = {replace(STALE, seed=k, **change): 0.0 for k in range(1, 6)}
    assert summary(shares | remedies) == summary(shares)


def test_verdicts_are_counted_and_named():
    runs = run_table(made_records(FULL_PLAN))
    claims = judge_claims(runs, PLANS["full"].claims)
    last = sentences(runs, claims)[-1]
    counts = claims["verdict"].value_counts()
    for verdict, count in counts.items():
        assert f"{count} {verdict}" in last
    for name in claims.loc[claims["verdict"] == "contradicted", "name"]:
        assert f"“{name}”" in last


def test_every_claim_has_one_line_with_its_number():
    runs = run_table(made_records(FULL_PLAN))
    claims = judge_claims(runs, CLAIMS)
    lines = claim_lines(claims)
    assert [line["claim"] for line in lines] == [claim.text for claim in CLAIMS]
    first = lines[0]
    assert first["verdict"] == "reproduced"
    assert "dead share 97 % (scale 1) and 5 % (scale 0.1)" in first["evidence"]
    assert "difference +92 [+92, +92] points, p = 0.0" in first["evidence"]
    assert first["evidence"].endswith(" after Holm's correction")
    by_name = dict(zip(claims["name"], lines, strict=True))
    assert by_name["networks die late"]["evidence"] == "not run"
    assert "pairs would" in by_name["only zeros"]["evidence"]


@pytest.mark.parametrize(
    ("value", "endpoint", "text", "change"),
    [
        (0.123, "dead_share", "12 %", "+12"),
        (0.1234, "test_accuracy", "12.3 %", "+12.3"),
        (120.0, "steps_to_80", "120", "+120"),
    ],
)
def test_numbers_have_the_precision_of_their_endpoint(value, endpoint, text, change):
    assert number(value, endpoint) == text
    assert difference(value, endpoint) == change
    assert difference(-1e-9, endpoint).startswith("+0")


def test_only_a_share_of_one_is_a_hundred_percent():
    assert percent(pd.Series([1.0, 1.0])) == "100 %"
    assert "100" not in percent(pd.Series([0.998, 0.9999]))


def test_words():
    assert percent(pd.Series([0.5, 0.5])) == "50 %"
    assert percent(pd.Series([0.1, 0.2, 0.4])) == "20 % (10 to 40)"
    assert [joined(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a", "a and b", "a, b and c"
    ]  # fmt: skip
