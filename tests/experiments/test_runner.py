# SPDX-License-Identifier: Apache-2.0
"""Small real runs of the study."""

import time
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.residual_scaling import programs as programs_module
from experiments.residual_scaling import runner
from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.plans import changed, grid
from experiments.residual_scaling.progress import Progress
from experiments.residual_scaling.records import training_loss
from tests.experiments.tiny_study import ARM, lasting, with_arms


def test_a_small_study_trains(whole):
    study, done = whole
    assert list(done) == study.arms
    assert len(study.arms_file.read_text().splitlines()) == len(study.arms)
    for arm, record in done.items():
        assert record["arm"] == asdict(arm)
        assert len(record["loss"]) == len(record["grad_norm"]) == arm.steps
        probes = record["probes"]
        assert probes["step"] == [0, 2, 4, 6]
        assert np.shape(probes["dead"]) == (4, arm.depth)
        assert probes["curvature"][0] > 0
        changes = np.array(probes["function_change"], float)
        assert np.isnan(changes).tolist() == [True, False, False, False]
        assert probes["update_ratio/linear"][-1] > 0
        assert record["test"]["count"] == 297
        assert record["versions"]["jax"] == jax.__version__
        assert record["settings"]["probe_images"] == 32
        assert record["settings"]["optimizer.weight_decay"] == 0.0
    assert len({tuple(record["loss"]) for record in done.values()}) == len(done)
    # Arms of one seed start alike and see the same batches.
    scales_alone = {arm: r["loss"][0] for arm, r in done.items() if arm.shape == ARM.shape}
    for arm, loss in scales_alone.items():
        assert loss == scales_alone[replace(arm, learning_rate=0.2)]
        assert loss != scales_alone[replace(arm, seed=1 - arm.seed)]


@pytest.mark.usefixtures("shared_programs")
def test_the_seed_orders_the_data(study):
    lab = runner.Lab(with_arms(study, ARM, seeds=2))
    batch, seen = lab.batch, {}

    def spy(*of):
        seen[of] = batch(*of)
        return seen[of]

    lab.batch = spy
    progress = Progress(lab.study.arms, 4, np.inf)
    arms = progress.next()
    progress.start(arms)
    runner.train_arms(lab, lab.programs(ARM), arms, progress)
    assert set(seen) == {(ARM.shape, k, step) for k in (0, 1) for step in range(6)}
    labels = {tuple(b["label"]) for b in seen.values()}
    assert len(labels) == len(seen)


@pytest.mark.usefixtures("shared_programs")
def test_arms_of_one_shape_keep_their_initialisers(study, whole):
    glorot = replace(ARM, init="glorot")
    records = runner.run(with_arms(study, ARM, glorot))
    assert records[ARM]["loss"] == whole[1][ARM]["loss"]
    assert records[glorot]["loss"][0] != records[ARM]["loss"][0]


def test_finished_arms_are_kept_and_other_settings_are_refused(whole, monkeypatch):
    study, done = whole
    monkeypatch.setattr(runner, "train_arms", None)  # nothing is left to train
    assert runner.run(study) == done
    more = replace(study, plan=replace(study.plan, probe_images=16))
    with pytest.raises(ValueError, match=r"other settings \(probe_images 32 there, 16"):
        runner.run(more)


def test_one_compilation_serves_all_arms_of_a_shape(study, compilations):
    every_value = changed(
        [ARM],
        *({"scale": 0.1}, {"learning_rate": 0.1}, {"momentum": 0.0}),
        *({"clip_norm": 0.1}, {"warmup_steps": 3}, {"init_gain": 0.1}),
        {"warmup_steps": 3, "warmup": "linear", "warmup_rate": 1e-3},
        *({"classifier_rate": 0.1}, {"linear_rate": 0.1}),
    )
    runner.run(with_arms(study, ARM))
    compilations.clear()
    lab = runner.Lab(with_arms(study, ARM, *every_value, seeds=2))
    progress = Progress(lab.study.arms, len(lab.devices), np.inf)
    first = True
    losses = set()
    while arms := progress.next():
        progress.start(arms)
        records = runner.train_arms(lab, lab.programs(arms[0]), arms, progress)
        losses |= {tuple(record["loss"]) for record in records}
        if first:
            assert compilations
            compilations.clear()
            first = False
    assert not compilations
    # Warm-up and the classifier's rate are seen in the loss too: each value has an effect.
    assert len(losses) == len(lab.study.arms)


@pytest.mark.slow
def test_an_arm_does_not_depend_on_its_company_or_on_the_devices(whole, monkeypatch):
    study, many = whole
    assert all(record["devices"].startswith("4 x") for record in many.values())
    # The last group has two arms for four devices.
    some = with_arms(study, ARM, study.arms[-1].setting, seeds=2)
    monkeypatch.setattr(runner, "arm_devices", lambda: jax.local_devices()[:1])
    one = runner.run(replace(some, folder=study.folder / "one"))
    assert {arm: lasting(r) for arm, r in one.items()} == {
        arm: lasting(many[arm]) for arm in some.arms
    }


def test_arms_of_known_construction_get_their_labels(study, monkeypatch):
    diverging = replace(ARM, learning_rate=1e30)
    healthy = replace(ARM, scale=0.1, learning_rate=0.05, steps=40, probe_every=10)
    records = runner.run(with_arms(study, diverging, healthy))
    assert records[diverging]["outcome"] == Outcome.DIVERGED
    assert records[healthy]["outcome"] == Outcome.HEALTHY
    assert not np.isfinite(training_loss(records[diverging])[-1])

    # No residual can lift a channel above a bias of minus a million.
    made = programs_module.init_state

    def killed(*arguments):
        state = made(*arguments)
        linear = state.params["block8_1"]["Conv2d_1x1"]
        linear["bias"] = jnp.full_like(linear["bias"], -1e6)
        return state

    monkeypatch.setattr(programs_module, "init_state", killed)
    dead = replace(ARM, linear_rate=0.0, classifier_rate=0.0)
    (record,) = runner.run(with_arms(study, dead)).values()
    assert record["probes"]["pool_dead"] == [1.0] * 4
    assert record["outcome"] == Outcome.DEAD
    assert record["death_step"] == 0


@pytest.mark.usefixtures("shared_programs")
def test_a_diverged_arm_ends_neither_its_company_nor_the_study(study):
    arms = changed([ARM], {"learning_rate": 1e30}, {"learning_rate": 0.05})
    alone = runner.run(with_arms(study, arms[1]))[arms[1]]
    both = runner.run(replace(with_arms(study, *arms), folder=study.folder / "both"))
    assert both[arms[0]]["outcome"] == Outcome.DIVERGED
    *numbers, last = np.isfinite(training_loss(both[arms[0]]))
    assert all(numbers)
    assert not last
    assert len(both[arms[0]]["grad_norm"]) == len(numbers) + 1 < ARM.steps
    assert lasting(both[arms[1]]) == lasting(alone)


@pytest.mark.usefixtures("shared_programs")
@pytest.mark.slow
def test_unscaled_residuals_kill_channels_and_scaled_ones_do_not(study):
    """The finding itself, at the smallest size that shows it in seconds."""
    arms = grid(
        Arm(width=64, depth=4, learning_rate=0.4, steps=20, probe_every=10),
        scale=(1.0, 0.1),
    )
    unscaled, scaled = runner.run(with_arms(study, *arms)).values()
    dead = [record["probes"]["pool_dead"] for record in (unscaled, scaled)]
    assert dead[0][0] == dead[1][0] == 0.0
    assert dead[0][-1] > 0.5
    assert dead[1][-1] < 0.05
    losses = [np.mean(training_loss(r)[-10:]) for r in (scaled, unscaled)]
    assert losses[0] < losses[1]


@pytest.mark.usefixtures("shared_programs")
def test_what_does_not_fit_into_the_time_is_left_out_and_done_next_time(study, capsys):
    short = replace(study, minutes=1e-3)
    done = runner.run(short)
    assert 0 < len(done) < len(study.arms)
    out = capsys.readouterr().out
    assert runner.run(short, started=time.perf_counter() - 1) == done
    assert f"{len(study.arms) - len(done)} arms would not have ended in time" in out
    assert list(runner.run(study)) == study.arms
