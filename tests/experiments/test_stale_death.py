# SPDX-License-Identifier: Apache-2.0
"""At the paper's rate, stale gradients kill a narrow network, and scaling saves it."""

from dataclasses import replace

import jax
import pytest

from experiments.residual_scaling.design.settings import STALE
from experiments.residual_scaling.judge.outcomes import dead_share
from experiments.residual_scaling.run import runner
from experiments.residual_scaling.run.study import Study
from tests.experiments.tiny_study import TINY, with_runs

RUN = replace(STALE, width=64)


@pytest.mark.slow
def test_eight_replicas_kill_and_scaling_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "local_devices", lambda: jax.devices()[:1])  # one at a time
    settings = {
        "unscaled": RUN,
        "scaled": replace(RUN, scale=0.1),
        "synchronous": replace(RUN, replicas=1),
    }
    study = with_runs(Study(TINY, tmp_path), *settings.values())
    records = runner.train_study(study)
    dead = {name: dead_share(records[run]) for name, run in settings.items()}
    assert dead["unscaled"] >= 0.8
    assert dead["scaled"] <= 0.05
    assert dead["synchronous"] <= 0.05
    assert {run.learning_rate for run in records} == {0.045}
