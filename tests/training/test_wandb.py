# SPDX-License-Identifier: Apache-2.0
"""Logging to Weights & Biases, offline, where it is installed (extra `wandb`)."""

from dataclasses import replace

import pytest

from inception_jax.training.fit import fit

pytest.importorskip("wandb", reason="the extra wandb is not installed")


@pytest.mark.filterwarnings("default")  # of another package
def test_a_run_is_logged_offline(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "a run: <b>/x"
    assert fit(replace(tiny, workdir=folder, wandb="inception"))
    (log,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    for curve in (b"train/loss", b"train/learning_rate", b"eval_ema/top1"):
        assert curve in content
