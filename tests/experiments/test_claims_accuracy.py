# SPDX-License-Identifier: Apache-2.0
"""Verdicts on accuracy, depth, curvature and speed, from made-up records."""

import math
import random
from dataclasses import replace

import pytest

from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
)
from tests.experiments.made_records import DIVERGED, only, record, repeat


def scaled_pair(gain, width=256, seeds=8, rate=0.045):
    """Unscaled and scaled runs; `gain(seed)` is what scaling adds to the accuracy."""
    made = {}
    for seed in range(seeds):
        run = Run(width=width, seed=seed, learning_rate=rate)
        made[run] = record(accuracy=0.5 + 0.05 * seed)
        made[replace(run, scale=0.1)] = record(accuracy=0.5 + 0.05 * seed + gain(seed))
    return made


def test_harm_is_measured_over_pairs_of_the_same_seed():
    harmed = scaled_pair(lambda seed: -0.02 + 0.001 * (seed % 2))
    row = only(harmed, 8)
    assert (row.verdict, row.qualifier) == (
        CONTRADICTED,
        "at width 256, learning rate 0.045",
    )
    assert only(scaled_pair(lambda seed: 0.001 * (seed % 2)), 8).verdict == REPRODUCED
    shuffled = {
        replace(run, seed=(3 * run.seed) % 8) if run.scale == 1.0 else run: made
        for run, made in harmed.items()
    }
    assert only(shuffled, 8).verdict == UNDECIDED


def test_a_width_that_gains_does_not_hide_one_that_loses():
    records = scaled_pair(lambda seed: -0.05 + 0.001 * seed, width=64)
    records |= scaled_pair(lambda seed: 0.4 + 0.001 * seed, width=1024)
    row = only(records, 8)
    assert (row.verdict, row.qualifier) == (
        CONTRADICTED,
        "at width 64, learning rate 0.045",
    )


def test_each_scale_is_judged_at_its_best_rate():
    records = scaled_pair(lambda seed: -0.1 + 0.001 * seed, rate=0.01)
    records |= scaled_pair(lambda seed: 0.2 + 0.001 * seed, rate=0.045)
    assert only(records, 8, "common").verdict == CONTRADICTED
    row = only(records, 8, "best rate")
    assert row.verdict == REPRODUCED
    assert "learning rate 0.045" in row.evidence


def test_a_diverged_scaled_run_is_harmed():
    records = scaled_pair(lambda seed: 0.0)
    for run, made in records.items():
        if run.scale != 1.0:
            made["outcome"] = str(DIVERGED)
            made["test"]["top1_sum"] = None
    assert only(records, 8).verdict == CONTRADICTED


@pytest.mark.parametrize(
    ("bad_at", "verdict"),
    [
        ({(10, 1.0), (10, 0.3)}, REPRODUCED),
        ({(4, 1.0), (4, 0.3)}, CONTRADICTED),
        ({(4, 1.0), (10, 1.0)}, UNDECIDED),
        (set(), NOT_TESTED),
    ],
)
def test_deeper_networks_need_lower_scales(bad_at, verdict):
    records = {}
    for depth in (4, 10):
        for scale in (1.0, 0.3, 0.1):
            bad = (depth, scale) in bad_at
            records |= repeat(Run(depth=depth, scale=scale), 6 * bad, 6)
    row = only(records, 10, "failed")
    assert row.verdict == verdict
    if verdict == REPRODUCED:
        where = "width 256, learning rate 0.045"
        assert row.details == (
            f"depth 4, {where}: 1 [1, 1]",
            f"depth 10, {where}: 0.1 [0.1, 0.1]",
        )


def curvature_grid(control):
    """36 settings; runs are unstable where `control(run, curvature)` is above 1."""
    rng = random.Random(0)
    records = {}
    for width in (64, 256, 1024):
        for scale in (1.0, 0.3, 0.1):
            for rate in (0.02, 0.05, 0.1, 0.2):
                curvature = math.exp(rng.uniform(0, 6))
                run = Run(width=width, scale=scale, learning_rate=rate)
                bad = 5 * (control(run, curvature) > 1)
                records |= repeat(run, bad, 5, curvature=curvature)
    return records


@pytest.mark.slow
def test_curvature_against_the_settings_as_predictors():
    row = only(curvature_grid(lambda run, c: run.learning_rate * c / 3.8), 11)
    assert row.verdict == REPRODUCED
    assert "AUC of rate x curvature 1.000" in row.evidence
    row = only(curvature_grid(lambda run, c: run.width * run.scale / 100), 11)
    assert row.verdict == CONTRADICTED


@pytest.mark.parametrize(
    ("residual", "plain", "verdict"),
    [
        (10, 30, REPRODUCED),
        (10, None, REPRODUCED),
        (30, 10, CONTRADICTED),
        (20, 20, UNDECIDED),
        (None, None, NOT_TESTED),
    ],
)
@pytest.mark.parametrize("block", ["plain", "concat"])
def test_residual_connections_speed_up(residual, plain, block, verdict):
    records = repeat(Run(scale=0.1), 0, reached=residual)
    records |= repeat(Run(block=block), 0, reached=plain)
    records |= repeat(Run(scale=0.0), 0, reached=10)
    row = only(records, 12)
    assert row.verdict == verdict
    if (residual, plain) == (10, 30):
        assert "paired difference -20 [-20, -20]" in row.evidence
    if (residual, plain) == (10, None):
        assert "paired difference -70 [-70, -70]" in row.evidence  # of 80 steps
