# SPDX-License-Identifier: Apache-2.0
"""Arms and plans as data."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from experiments.residual_scaling.arms import DEFAULTS, VALUES, Arm
from experiments.residual_scaling.plans import BASE, PLANS, Group, changed, combined, grid
from experiments.residual_scaling.study import Options


@pytest.mark.parametrize("name", PLANS)
def test_a_group_goes_seed_by_seed_and_names_no_arm_twice(name):
    for group in PLANS[name].groups:
        assert len(group.arms) == len(set(group.arms)) == group.seeds * len(group.settings)
        assert [arm.seed for arm in group.arms] == sorted(arm.seed for arm in group.arms)


def test_the_main_job_has_what_verdicts_need():
    plan = PLANS["cpu"]
    assert all(group.seeds >= 5 for group in plan.groups)
    arms = {arm for group in plan.groups for arm in group.settings}
    assert {arm.width for arm in arms if arm.width > 1000}, "the claim starts at 1000"
    assert 0.045 in {arm.learning_rate for arm in arms}, "the paper's rate is missing"
    assert BASE in arms, "nothing to hold the cures against"


def test_the_gpu_plan_has_the_papers_widths_and_horizon():
    arms = {arm for group in PLANS["gpu"].groups for arm in group.settings}
    assert any(arm.network == "BC" and arm.width == 2080 for arm in arms)
    long = [a for a in arms if a.steps >= 30_000 and a.learning_rate == 0.045]
    assert {arm.scale for arm in long} >= {1.0, 0.1}


def test_shape_keeps_what_is_compiled_and_drops_what_is_a_value():
    arm = Arm(width=8, scale=0.1, seed=3, init="glorot", clip_norm=1.0, steps=7)
    assert arm.shape == Arm(width=8, steps=7)
    assert arm.program == replace(arm, probe_every=3).program == Arm(width=8)
    assert arm.setting == replace(arm, seed=0)
    assert set(VALUES) < set(DEFAULTS) == {field.name for field in fields(Arm)}


def test_an_arm_says_what_is_special_about_it():
    assert str(Arm(seed=2)) == "width 256, scale 1, learning rate 0.045, seed 2"
    arm = Arm(pool_norm="before_relu", scale=None, warmup_steps=40)
    assert str(arm) == (
        "width 256, scale as published, learning rate 0.045, pool norm before_relu, "
        "warmup steps 40, seed 0"
    )


def test_grids_and_changes():
    assert len(grid(BASE, width=(1, 2), scale=(0.1, 0.2, 0.3))) == 6
    one, two = changed([BASE], {"depth": 2}, {"depth": 3})
    assert (one.depth, two.depth) == (2, 3)
    assert combined((one, two), (two,)) == (one, two)
    assert [arm.depth for arm in Group("?", (one, two), seeds=2).arms] == [2, 3, 2, 3]


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
def test_bad_arms_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Arm(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": "cpv"}, "plan must be one of quick, cpu, .*, got 'cpv'"),
        ({"minutes": 0.0}, "minutes must be > 0, got 0.0"),
        ({"seeds": 0}, "seeds must be 1 or more, got 0"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Options(**change)


def test_options_change_the_plan():
    study = Options(plan="quick", seeds=3).study
    assert {arm.seed for arm in study.arms} == {0, 1, 2}
    assert str(study.folder) == "runs/residual_scaling_quick"
    assert str(Options().study.folder) == "runs/residual_scaling"
    assert Options(minutes=0.5).study.seconds == 30
    assert Options(plan="quick").study.seconds == 120
    elsewhere = Options(workdir=Path("there"), data_dir="data").study
    assert (str(elsewhere.folder), elsewhere.data_dir) == ("there", "data")


def test_what_is_missing_is_said_group_by_group():
    study = Options(plan="quick").study
    first = study.arms[0]
    (words,) = study.left_out({first: {}})
    assert words.startswith("Do unscaled networks die? 7 of 8 arms: width 64, scale 0.1,")
    assert words.count("width") == 4
    assert study.left_out({arm: {} for arm in study.arms}) == []
