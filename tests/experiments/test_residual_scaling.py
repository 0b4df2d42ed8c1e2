# SPDX-License-Identifier: Apache-2.0
"""The instability study: plan, labels, verdicts, and small real runs of it."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.residual_scaling import claims, runner
from experiments.residual_scaling.figure import STYLES, draw
from experiments.residual_scaling.outcomes import Outcome, outcome
from experiments.residual_scaling.report import write_report
from experiments.residual_scaling.study import MAX_SCALES, Arm, Study

LEARNING = [2.3, 2.0, 1.5, 1.0] + [0.5] * 10
GUESSING = [2.3] * 14


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def study(tmp_path, data_dir) -> Study:
    """Two arms that train in a moment."""
    return Study(
        widths=(8,),
        scales=(1.0, 0.1),
        learning_rates=(0.2,),
        seeds=1,
        steps=6,
        depth=1,
        batch_size=8,
        probe_every=2,
        workdir=tmp_path / "run",
        data_dir=data_dir,
    )


@pytest.mark.parametrize(
    ("loss", "dead", "expected"),
    [
        (LEARNING, [0, 0, 0, 0], Outcome.HEALTHY),
        ([2.3, math.nan, *LEARNING], [0, 0], Outcome.DIVERGED),
        ([2.3, math.inf, *LEARNING], [0, 0], Outcome.DIVERGED),
        (GUESSING, [0, 0.99, 1.0, 1.0], Outcome.DEAD),
        (GUESSING, [0, 0.98, 1.0, 1.0], Outcome.PART_DEAD),  # not at three probes
        (GUESSING, [1.0, 1.0, 1.0, 0.2], Outcome.CHANCE),  # recovered, but learned nothing
        (LEARNING, [0, 0, 0.5], Outcome.PART_DEAD),
        (GUESSING, [0, 0, 0], Outcome.CHANCE),
        ([2.3, 4.7, *LEARNING], [0, 0, 0], Outcome.SCARRED),
        (LEARNING, [0, 0.05, 0], Outcome.SCARRED),
    ],
)
def test_outcomes_follow_the_written_rules(loss, dead, expected):
    assert outcome(loss, dead) == expected


def test_plan_is_complete_and_goes_seed_by_seed():
    arms = Study().arms
    assert len(arms) == len(set(arms)) == 3 * 3 * 2 * 5
    assert [arm.seed for arm in arms] == sorted(arm.seed for arm in arms)
    assert {arm.width for arm in arms if arm.width > 1000}, "the claim starts at 1000"
    assert 0.045 in {arm.learning_rate for arm in arms}, "the paper's rate is missing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": (1.0, 1.5)}, r"scales must lie in \[0, 1\], got \(1.0, 1.5\)"),
        ({"widths": ()}, "widths must be different numbers"),
        ({"widths": (64, 64)}, "widths must be different numbers"),
        ({"learning_rates": (0.0,)}, "learning_rates must be > 0"),
        ({"scales": tuple(i / 8 for i in range(8))}, "scales must be 7 or fewer"),
        ({"seeds": 0}, "seeds must be 1 or more, got 0"),
    ],
)
def test_bad_plans_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Study(), **change)


def records(deaths: dict[tuple[int, float], int], seeds: int = 5) -> claims.Records:
    """Arms at the paper's rate; `deaths` says how many seeds of (width, scale) died."""
    made = {}
    for (width, scale), dying in deaths.items():
        for seed in range(seeds):
            label = Outcome.DEAD if seed < dying else Outcome.HEALTHY
            made[Arm(width, scale, 0.045, seed)] = {
                "outcome": str(label),
                "test": {"top1_sum": 90.0, "count": 100.0},
            }
    return made


def verdict(made: claims.Records, claim: str) -> str:
    found = [v.verdict for v in claims.judge(made) if claim in v.claim]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("unscaled", "scaled", "dies", "saves"),
    [
        (5, 0, "reproduced", "reproduced"),
        (0, 0, "not reproduced", "not tested: no unscaled network died"),
        (5, 5, "reproduced", "undecided"),
        (0, 5, "not reproduced", "contradicted"),
        (3, 0, "undecided", "undecided"),
    ],
)
def test_verdicts_come_from_the_runs(unscaled, scaled, dies, saves):
    made = records({(1024, 1.0): unscaled, (1024, 0.1): scaled})
    assert verdict(made, "more than 1000 filters die") == dies
    assert verdict(made, "keeps the network alive") == saves


@pytest.mark.parametrize(
    ("narrow", "wide", "expected"),
    [
        (0, 5, "reproduced"),
        (5, 5, "contradicted: narrow ones die too"),
        (0, 0, "not reproduced"),
        (5, 0, "contradicted: narrow ones die too"),
    ],
)
def test_threshold_verdict(narrow, wide, expected):
    made = records({(64, 1.0): narrow, (1024, 1.0): wide})
    assert verdict(made, "begins above 1000") == expected


def test_scales_outside_the_papers_range_are_not_judged_by_its_claims():
    made = records({(1024, 1.0): 5, (1024, 0.5): 0, (1024, 0.0): 0})
    assert [v.claim for v in claims.judge(made)] == [claims.DIES]


def test_figure_tells_as_many_scales_apart_as_a_study_may_have():
    assert len(set(STYLES)) == MAX_SCALES


def test_two_seeds_decide_nothing():
    made = records({(1024, 1.0): 2, (1024, 0.1): 0}, seeds=2)
    assert verdict(made, "keeps the network alive") == "undecided"
    assert verdict(made, "more than 1000 filters die") == "undecided"


def test_harm_is_measured_over_pairs_of_the_same_seed():
    made = records({(64, 1.0): 0, (64, 0.1): 0})
    for arm, record in made.items():
        record["test"]["top1_sum"] = 50 + 9 * arm.seed - (arm.scale < 1)
    assert verdict(made, "harm") == "contradicted at width 64"
    for arm, record in made.items():
        record["test"]["top1_sum"] = 50 + 9 * arm.seed + (arm.scale < 1)
    assert verdict(made, "harm") == "reproduced"


def test_a_saved_width_does_not_hide_a_harmed_one():
    made = records({(64, 1.0): 0, (64, 0.1): 0, (1024, 1.0): 5, (1024, 0.1): 0})
    for arm, record in made.items():
        gain = -5 if arm.width == 64 else 50
        record["test"]["top1_sum"] = 40 + arm.seed + (arm.scale < 1) * gain
    assert verdict(made, "harm") == "contradicted at width 64"


def test_stability_counts_arms_that_were_hurt_and_lived():
    made = records({(1024, 1.0): 0, (1024, 0.1): 0})
    for arm, record in made.items():
        if arm.scale == 1.0:
            record["outcome"] = str(Outcome.SCARRED)
    assert verdict(made, "stabilises") == "reproduced"
    assert verdict(made, "keeps the network alive").startswith("not tested")


def test_wilson_interval_against_published_values():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81/263, 0/20.
    assert claims.Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert claims.Share(0, 20).interval == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_a_small_study_trains_reports_and_resumes(study, capsys, monkeypatch):
    done = runner.run(study)
    assert list(done) == study.arms
    for record in done.values():
        assert {len(values) for values in record["train"].values()} == {study.steps}
        assert set(record["train"]["count"]) == {study.batch_size}
        assert record["test"]["count"] == 297
        assert record["probe_steps"] == [0, 2, 4, 6]
        assert len(record["dead_fraction"]) == 4
        assert record["versions"]["jax"] == jax.__version__
    assert len({record["train"]["loss_sum"][-1] for record in done.values()}) == 2, (
        "same scale twice?"
    )

    write_report(study, done)
    text = capsys.readouterr().out
    for file in ("residual_scaling.png", "verdicts.txt", "arms.jsonl"):
        assert str(study.folder / file) in text
        assert (study.folder / file).stat().st_size > 0

    monkeypatch.setattr(runner, "train_arm", None)  # nothing is left to train
    assert runner.run(study) == done
    with pytest.raises(
        ValueError, match=r"holds arms of other settings \(steps 6 there, 8"
    ):
        runner.run(replace(study, steps=8))
    clipped = replace(runner.OPTIMIZER, clip_norm=2.0)
    monkeypatch.setattr(runner, "OPTIMIZER", clipped)
    with pytest.raises(ValueError, match=r"optimizer\.clip_norm None there, 2\.0 here"):
        runner.run(study)


def test_one_compilation_serves_every_scale_rate_and_seed(study, monkeypatch):
    calls = []
    traced = runner.train_step

    def counting(*arguments, **options):
        calls.append(None)
        return traced(*arguments, **options)

    monkeypatch.setattr(runner, "train_step", counting)
    study = replace(study, learning_rates=(0.2, 0.1), seeds=2)
    assert len(runner.run(study)) == 8
    assert len(calls) == 1


def test_an_arm_does_not_depend_on_the_number_of_devices(study, monkeypatch):
    many = runner.run(study)
    assert all(record["devices"].startswith("4 x") for record in many.values())
    monkeypatch.setattr(runner, "local_devices_for", lambda *_: jax.local_devices()[:1])
    one = runner.run(replace(study, workdir=study.folder / "one"))
    for arm in study.arms:
        losses = [runner.training_loss(records[arm]) for records in (one, many)]
        np.testing.assert_allclose(*losses, rtol=1e-3)


def test_unscaled_residuals_kill_channels_and_scaled_ones_do_not(study):
    """The finding itself, at the smallest size that shows it in seconds."""
    study = replace(study, widths=(64,), depth=10, steps=40, batch_size=32, probe_every=20)
    unscaled, scaled = runner.run(study).values()
    assert unscaled["dead_fraction"][0] == scaled["dead_fraction"][0] == 0.0
    assert unscaled["dead_fraction"][-1] > 0.5
    assert scaled["dead_fraction"][-1] < 0.05
    losses = [np.mean(runner.training_loss(r)[-10:]) for r in (scaled, unscaled)]
    assert losses[0] < losses[1]


def test_dead_channels_are_counted_over_all_devices(study):
    devices = jax.local_devices()
    programs = runner.Programs(study, 8, devices, steps_per_epoch=10.0)
    state = programs.init(0)
    last = state.params["block8_1"]["Conv2d_1x1"]
    # Three of eight channels get a bias that no residual can lift above zero.
    last["bias"] = last["bias"].at[:3].set(-1e6)
    numbers = runner.Numbers(jax.numpy.float32(0.1), jax.numpy.float32(1.0), 0)
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1))}
    batch = {"image": batch["image"].astype(np.float32)}
    assert runner._probe(programs, state, batch, numbers) == pytest.approx(3 / 8)


def test_figure_shows_arms_that_diverged(tmp_path):
    made = records({(64, 1.0): 1, (64, 0.1): 0}, seeds=2)
    for record in made.values():
        record |= {
            "train": {"loss_sum": [23.0, None, None, None], "count": [10] * 4},
            "probe_steps": [0, 2, 4],
            "dead_fraction": [0.0, 0.5, 1.0],
            "settings": {"depth": 1},
        }
    draw(made, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.residual_scaling", *arguments]


def test_ctrl_c_keeps_finished_arms_and_the_same_command_goes_on(tmp_path, data_dir):
    sizes = "--widths 8 --scales 1 --learning-rates 0.2 --depth 1 --steps 100 --seeds 60"
    run = command(*sizes.split(), "--workdir", str(tmp_path), "--data-dir", data_dir)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "JAX_NUM_CPU_DEVICES": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(run, env=environment, cwd=Path.cwd(), **pipes)
    while not process.stdout.readline().startswith("[3/60"):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on from there" in output
    assert "Traceback" not in errors
    lines = (tmp_path / "arms.jsonl").read_text().splitlines()
    kept = [json.loads(line)["arm"]["seed"] for line in lines]
    assert 3 <= len(kept) < 60

    # The kept arms are not trained again: their lines stay as they are.
    shorter = " ".join(run).replace("--seeds 60", f"--seeds {len(kept) + 1}").split()
    again = subprocess.run(shorter, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of {len(kept) + 1} arms are on record and kept" in again.stdout
    after = (tmp_path / "arms.jsonl").read_text().splitlines()
    assert after[: len(lines)] == lines
    assert len(after) == len(kept) + 1


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "Channels of the residual stream"),
        (["--scales", "2"], 2, "scales must lie in [0, 1], got (2.0,)."),
        (["--sceles", "1"], 2, "Unrecognized options: --sceles"),
    ],
)
def test_command_line_answers_mistakes_in_a_sentence(arguments, code, expected):
    result = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert result.returncode == code
    assert expected in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
