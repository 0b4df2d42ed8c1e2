# SPDX-License-Identifier: Apache-2.0
"""Runs and plans as data."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from experiments.residual_scaling.design.plans import PLANS, Group, changed, grid
from experiments.residual_scaling.design.runs import DEFAULTS, VALUES, Run
from experiments.residual_scaling.design.settings import STALE
from experiments.residual_scaling.run.study import Options


@pytest.mark.parametrize("name", PLANS)
def test_a_group_goes_seed_by_seed_without_duplicates(name):
    for group in PLANS[name].groups:
        assert (
            len(group.runs)
            == len(set(group.runs))
            == len(group.seeds) * len(group.settings)
        )
        assert [run.seed for run in group.runs] == sorted(run.seed for run in group.runs)


def test_the_main_plan_has_the_papers_networks_with_five_seeds():
    plan = PLANS["main"]
    assert all(len(group.seeds) >= 5 for group in plan.groups)
    settings = {run for group in plan.groups for run in group.settings}
    full = {run.network: run.width for run in settings if run.network != "C"}
    assert full == {
        "inception_resnet_v2_paper": 2144,
        "inception_resnet_v1": 1792,
        "inception_v4": 1536,
    }
    for network in ("inception_resnet_v2_paper", "inception_resnet_v1"):
        scales = {run.scale for run in settings if run.network == network}
        assert scales == {1.0, 0.1}
    claimed = {run for claim in plan.claims for run in claim.runs}
    assert {run.learning_rate for run in claimed} == {0.045}
    assert {run.replicas for run in claimed} == {1, 8}


def test_the_gpu_plan_has_larger_images_replicas_and_a_long_horizon():
    runs = {run for group in PLANS["gpu"].groups for run in group.settings}
    assert {run.image_size for run in runs} == {149}
    assert {run.replicas for run in runs} == {1, 4, 8, 20}
    long = [run for run in runs if run.steps >= 30_000]
    assert {run.scale for run in long} == {1.0, 0.1}


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
    assert len(grid(STALE, width=(1, 2), scale=(0.1, 0.2, 0.3))) == 6
    one, two = changed([STALE], {"depth": 2}, {"depth": 3})
    assert (one.depth, two.depth) == (2, 3)
    assert [run.depth for run in Group("?", (one, two), range(2)).runs] == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 1.5}, r"scale must lie in \[0, 1\], got 1.5"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be > 0, got inf"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"stagger": 5}, "stagger must be 0 for one replica, got 5"),
        ({"block": "concat", "scale": 0.1}, "has no residuals, so scale cannot be set"),
        ({"network": "inception_v4"}, "inception_v4 needs image_size 75 or more, got 8"),
    ],
)
def test_invalid_runs_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        Run(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": "cpv"}, "plan must be one of quick, main, .*, got 'cpv'"),
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


def test_another_data_set_replaces_the_digits():
    study = Options(plan="quick", data="folder:x").study
    assert {run.data for run in study.runs} == {"folder:x"}
