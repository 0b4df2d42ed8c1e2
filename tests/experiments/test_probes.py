# SPDX-License-Identifier: Apache-2.0
"""Records of a run: probes, curves and the test of its last weights."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.residual_scaling.run import runner
from experiments.residual_scaling.run.probe_log import ProbeLog
from experiments.residual_scaling.run.programs import values_of
from tests.experiments.tiny_study import RUN, with_runs


@pytest.mark.usefixtures("shared_programs")
def test_probes_do_not_depend_on_how_often_a_run_is_probed(study, whole, monkeypatch):
    often = replace(RUN, probe_every=1)
    programs = runner.Lab(study).programs(often)
    probe, logits = programs.probe, []

    def spy(*of):
        found = probe(*of)
        logits.append(np.array(found["logits"][0], float))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(programs, "probe", spy)
        probes = runner.train_study(with_runs(study, often))[often]["probes"]
    assert probes["step"] == list(range(7))
    assert len(logits) == 7  # no state is probed twice
    changes = [np.sqrt(np.mean(x**2)) for x in np.diff(logits, axis=0)]
    np.testing.assert_allclose(probes["function_change"][1:], changes, rtol=1e-4)
    seldom = whole[1][RUN]["probes"]
    for name, values in seldom.items():
        at_the_same = probes[name][::2]
        np.testing.assert_array_equal(at_the_same[1:], values[1:], name)
    # The last step is probed, too.
    uneven = replace(RUN, probe_every=4)
    again = runner.train_study(
        replace(with_runs(study, uneven), folder=study.folder / "uneven")
    )
    assert again[uneven]["probes"]["step"] == [0, 4, 6]


@pytest.mark.usefixtures("shared_programs")
def test_the_last_raw_weights_are_tested(study, monkeypatch):
    programs = runner.Lab(study).programs(RUN)
    step, evaluate = programs.step, programs.evaluate
    states, tested = [], []
    monkeypatch.setattr(
        programs, "step", lambda *of: states.append(step(*of)) or states[-1]
    )
    monkeypatch.setattr(
        programs, "evaluate", lambda *of: tested.append(of[0]) or evaluate(*of)
    )
    runner.train_study(with_runs(study, RUN))
    assert len(states) == RUN.steps
    last = states[-1][0].raw_variables
    assert tested
    for variables in tested:
        jax.tree.map(np.testing.assert_array_equal, variables, last)


def test_function_change_is_that_of_the_logits():
    class Fake:
        def probe(self, logits, *_):
            return {"logits": logits, "loss": np.zeros(2)}

    log = ProbeLog(Fake(), {}, values_of(RUN))
    before = np.zeros((2, 3, 4))  # runs, images, classes
    after = before + np.array([3.0, 0.0])[:, None, None]
    after[1, :, 0] = 4.0
    log.record(
        1, after, before, {"update_ratio/linear": np.ones(2), "loss_sum": np.ones(2)}
    )
    assert log.of_run(0)["function_change"] == [3.0]
    assert log.of_run(1)["function_change"] == [2.0]
    assert set(log.of_run(0)) == {"step", "loss", "function_change", "update_ratio/linear"}


@pytest.mark.usefixtures("shared_programs")
def test_long_curves_are_thinned_to_means(study, whole, monkeypatch):
    monkeypatch.setattr(runner, "MAX_POINTS", 4)
    record = runner.train_study(with_runs(study, RUN))[RUN]
    assert record["loss_every"] == 2
    for name in ("loss", "grad_norm"):
        expected = np.reshape(whole[1][RUN][name], (3, 2)).mean(axis=1)
        np.testing.assert_allclose(record[name], expected, rtol=1e-4)
