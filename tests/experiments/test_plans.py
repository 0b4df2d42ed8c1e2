# SPDX-License-Identifier: Apache-2.0
"""Runs and plans as data."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from experiments.residual_scaling.plans import BASE, PLANS, Group, changed, grid
from experiments.residual_scaling.runs import DEFAULTS, VALUES, Run
from experiments.residual_scaling.study import Options


@pytest.mark.parametrize("name", PLANS)
def test_a_group_goes_seed_by_seed_without_duplicates(name):
    for group in PLANS[name].groups:
        assert len(group.runs) == len(set(group.runs)) == group.seeds * len(group.settings)
        assert [run.seed for run in group.runs] == sorted(run.seed for run in group.runs)


def test_the_main_plan_has_what_verdicts_need():
    plan = PLANS["cpu"]
    assert all(group.seeds >= 5 for group in plan.groups)
    runs = {run for group in plan.groups for run in group.settings}
    assert {run.width for run in runs if run.width > 1000}, "the claim starts at 1000"
    assert 0.045 in {run.learning_rate for run in runs}, "the paper's rate is missing"
    assert BASE in runs, "the remedies have no baseline"


def test_the_gpu_plan_has_the_papers_widths_and_horizon():
    runs = {run for group in PLANS["gpu"].groups for run in group.settings}
    assert any(run.network == "BC" and run.width == 2080 for run in runs)
    long = [a for a in runs if a.steps >= 30_000 and a.learning_rate == 0.045]
    assert {run.scale for run in long} >= {1.0, 0.1}


def test_shape_keeps_compiled_fields_and_drops_values():
    run = Run(width=8, scale=0.1, seed=3, init="glorot", clip_norm=1.0, steps=7)
    assert run.shape == Run(width=8, steps=7)
    assert run.program == replace(run, probe_every=3).program == Run(width=8)
    assert run.setting == replace(run, seed=0)
    assert set(VALUES) < set(DEFAULTS) == {field.name for field in fields(Run)}


def test_a_run_describes_its_changes():
    assert str(Run(seed=2)) == "width 256, scale 1, learning rate 0.045, seed 2"
    run = Run(pool_norm="before_relu", scale=None, warmup_steps=40)
    assert str(run) == (
        "width 256, scale as published, learning rate 0.045, pool norm before_relu, "
        "warmup steps 40, seed 0"
    )


def test_grids_and_changes():
    assert len(grid(BASE, width=(1, 2), scale=(0.1, 0.2, 0.3))) == 6
    one, two = changed([BASE], {"depth": 2}, {"depth": 3})
    assert (one.depth, two.depth) == (2, 3)
    assert [run.depth for run in Group("?", (one, two), seeds=2).runs] == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 1.5}, r"scale must lie in \[0, 1\], got 1.5"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be > 0, got inf"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
    ],
)
def test_invalid_runs_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        Run(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": "cpv"}, "plan must be one of quick, cpu, .*, got 'cpv'"),
        ({"minutes": 0.0}, "minutes must be > 0, got 0.0"),
        ({"seeds": 0}, "seeds must be 1 or more, got 0"),
    ],
)
def test_invalid_options_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        Options(**change)


def test_options_change_the_plan():
    study = Options(plan="quick", seeds=3).study
    assert {run.seed for run in study.runs} == {0, 1, 2}
    assert str(study.folder) == "runs/residual_scaling_quick"
    assert str(Options().study.folder) == "runs/residual_scaling"
    assert Options(minutes=0.5).study.seconds == 30
    assert Options(plan="quick").study.seconds == 120
    elsewhere = Options(workdir=Path("there"), data_dir="data").study
    assert (str(elsewhere.folder), elsewhere.data_dir) == ("there", "data")


def test_missing_runs_are_described_by_group():
    study = Options(plan="quick").study
    first = study.runs[0]
    (words,) = study.left_out({first: {}})
    assert words.startswith("Do unscaled networks die? 7 of 8 runs: width 64, scale 0.1,")
    assert words.count("width") == 4
    assert study.left_out({run: {} for run in study.runs}) == []
