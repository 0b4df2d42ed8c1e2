# SPDX-License-Identifier: Apache-2.0
"""Small real runs of the study."""

import time
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.residual_scaling.design.plans import changed, grid
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.judge import outcomes
from experiments.residual_scaling.run import programs as programs_module
from experiments.residual_scaling.run import runner
from experiments.residual_scaling.run.progress import Progress
from tests.experiments.tiny_study import RUN, lasting, with_runs


def test_a_small_study_trains(whole):
    study, done = whole
    assert list(done) == study.runs
    assert len(study.records_file.read_text().splitlines()) == len(study.runs)
    for run, record in done.items():
        assert record["run"] == asdict(run)
        assert len(record["loss"]) == len(record["grad_norm"]) == run.steps
        probes = record["probes"]
        assert probes["step"] == [0, 2, 4, 6]
        assert np.shape(probes["dead"]) == (4, run.depth)
        assert probes["curvature"][0] > 0
        changes = np.array(probes["function_change"], float)
        assert np.isnan(changes).tolist() == [True, False, False, False]
        assert probes["update_ratio/linear"][-1] > 0
        assert record["test"]["count"] == 297
        assert record["versions"]["jax"] == jax.__version__
        assert record["settings"]["probe_images"] == 32
        assert record["settings"]["optimizer.epsilon"] == 1.0
    assert len({tuple(record["loss"]) for record in done.values()}) == len(done)
    # Runs of one seed start alike and see the same batches.
    scales_alone = {run: r["loss"][0] for run, r in done.items() if run.shape == RUN.shape}
    for run, loss in scales_alone.items():
        assert loss == scales_alone[replace(run, learning_rate=0.2)]
        assert loss != scales_alone[replace(run, seed=1 - run.seed)]


@pytest.mark.usefixtures("shared_programs")
def test_the_seed_orders_the_data(study):
    lab = runner.Lab(with_runs(study, RUN, seeds=2))
    batch, seen = lab.batch, {}

    def spy(*of):
        seen[of] = batch(*of)
        return seen[of]

    lab.batch = spy
    progress = Progress(lab.study.runs, 4, np.inf)
    runs = progress.next()
    progress.start(runs)
    runner.train_runs(lab, lab.programs(RUN), runs, progress)
    assert set(seen) == {(RUN.shape, k, step) for k in (0, 1) for step in range(6)}
    labels = {tuple(b["label"]) for b in seen.values()}
    assert len(labels) == len(seen)


@pytest.mark.usefixtures("shared_programs")
def test_runs_of_one_shape_keep_their_initialisers(study, whole):
    glorot = replace(RUN, init="glorot")
    records = runner.train_study(with_runs(study, RUN, glorot))
    assert records[RUN]["loss"] == whole[1][RUN]["loss"]
    assert records[glorot]["loss"][0] != records[RUN]["loss"][0]


def test_finished_runs_are_kept_and_other_settings_are_rejected(whole, monkeypatch):
    study, done = whole
    monkeypatch.setattr(runner, "train_runs", None)  # must not be called
    assert runner.train_study(study) == done
    more = replace(study, plan=replace(study.plan, probe_images=16))
    with pytest.raises(ValueError, match=r"other settings \(probe_images 32 instead of 16"):
        runner.train_study(more)


def test_one_compilation_serves_all_runs_of_a_shape(study, compilations):
    every_value = changed(
        [RUN],
        *({"scale": 0.1}, {"learning_rate": 0.1}, {"momentum": 0.0}),
        *({"clip_norm": 0.1}, {"warmup_steps": 3}, {"init_gain": 0.1}),
        {"warmup_steps": 3, "warmup": "linear", "warmup_rate": 1e-3},
        *({"classifier_rate": 0.1}, {"linear_rate": 0.1}),
    )
    runner.train_study(with_runs(study, RUN))
    compilations.clear()
    lab = runner.Lab(with_runs(study, RUN, *every_value, seeds=2))
    progress = Progress(lab.study.runs, len(lab.devices), np.inf)
    first = True
    losses = set()
    while runs := progress.next():
        progress.start(runs)
        records = runner.train_runs(lab, lab.programs(runs[0]), runs, progress)
        losses |= {tuple(record["loss"]) for record in records}
        if first:
            assert compilations
            compilations.clear()
            first = False
    assert not compilations
    # Each value changes the loss.
    assert len(losses) == len(lab.study.runs)


@pytest.mark.slow
def test_a_run_does_not_depend_on_concurrent_runs_or_devices(whole, monkeypatch):
    study, many = whole
    assert all(record["devices"].startswith("4 x") for record in many.values())
    # The last group has two runs for four devices.
    some = with_runs(study, RUN, study.runs[-1].setting, seeds=2)
    monkeypatch.setattr(runner, "local_devices", lambda: jax.local_devices()[:1])
    one = runner.train_study(replace(some, folder=study.folder / "one"))
    assert {run: lasting(r) for run, r in one.items()} == {
        run: lasting(many[run]) for run in some.runs
    }


def test_runs_of_known_construction_have_their_outcomes(study, monkeypatch):
    diverging = replace(RUN, learning_rate=1e30)
    healthy = replace(RUN, scale=0.1, learning_rate=0.05, steps=40, probe_every=10)
    records = runner.train_study(with_runs(study, diverging, healthy))
    assert outcomes.has_diverged(records[diverging])
    assert outcomes.dead_share(records[healthy]) < 0.05
    assert records[healthy]["test"]["dead"] < 0.05
    assert records[diverging]["loss"][-1] is None

    # A bias of minus a million kills every channel.
    made = programs_module.init_state

    def killed(*arguments):
        state = made(*arguments)
        linear = state.params["block8_1"]["Conv2d_1x1"]
        linear["bias"] = jnp.full_like(linear["bias"], -1e6)
        return state

    monkeypatch.setattr(programs_module, "init_state", killed)
    dead = replace(RUN, linear_rate=0.0, classifier_rate=0.0)
    (record,) = runner.train_study(with_runs(study, dead)).values()
    assert record["probes"]["pool_dead"] == [1.0] * 4
    assert record["test"]["dead"] == 1.0
    assert outcomes.collapse_step(record) == 0
    assert outcomes.has_collapsed(record)


@pytest.mark.usefixtures("shared_programs")
def test_a_diverged_run_does_not_stop_others(study):
    runs = changed([RUN], {"learning_rate": 1e30}, {"learning_rate": 0.05})
    alone = runner.train_study(with_runs(study, runs[1]))[runs[1]]
    both = runner.train_study(
        replace(with_runs(study, *runs), folder=study.folder / "both")
    )
    assert outcomes.has_diverged(both[runs[0]])
    *numbers, last = np.isfinite(np.array(both[runs[0]]["loss"], float))
    assert all(numbers)
    assert not last
    assert len(both[runs[0]]["grad_norm"]) == len(numbers) + 1 < RUN.steps
    assert lasting(both[runs[1]]) == lasting(alone)


@pytest.mark.usefixtures("shared_programs")
@pytest.mark.slow
def test_unscaled_residuals_kill_channels_and_scaled_ones_do_not(study):
    """The finding itself, at the smallest size that shows it in seconds."""
    runs = grid(
        Run(width=64, depth=4, learning_rate=0.4, steps=20, probe_every=10),
        scale=(1.0, 0.1),
    )
    unscaled, scaled = runner.train_study(with_runs(study, *runs)).values()
    dead = [record["probes"]["pool_dead"] for record in (unscaled, scaled)]
    assert dead[0][0] == dead[1][0] == 0.0
    assert dead[0][-1] > 0.5
    assert dead[1][-1] < 0.05
    losses = [np.mean(r["loss"][-10:]) for r in (scaled, unscaled)]
    assert losses[0] < losses[1]


@pytest.mark.usefixtures("shared_programs")
def test_runs_that_do_not_fit_are_left_out_and_trained_next_time(study, capsys):
    short = replace(study, minutes=1e-3)
    done = runner.train_study(short)
    assert 0 < len(done) < len(study.runs)
    out = capsys.readouterr().out
    assert runner.train_study(short, started=time.perf_counter() - 1) == done
    assert f"{len(study.runs) - len(done)} runs would not have finished in time" in out
    assert list(runner.train_study(study)) == study.runs
