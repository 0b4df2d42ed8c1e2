# SPDX-License-Identifier: Apache-2.0
"""Reports of a run, with a clock that the test controls."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inception_jax.config import ParallelConfig
from inception_jax.runtime.goodput import KINDS, Goodput
from inception_jax.runtime.stopping import StopSignal
from inception_jax.storage.files import append_json_line, read_json_lines
from inception_jax.training import scalar_log
from inception_jax.training.reporter import Reporter, greeting
from inception_jax.training.setup import set_up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def update(clock: list[float]) -> Callable[..., None]:
    """Return a function that adds a step of 32 images with a duration in seconds."""

    def one(reporter: Reporter, seconds: float, norm: float) -> None:
        with reporter.goodput.spent_on("step"):
            clock[0] += seconds
        sums = {"loss_sum": 64.0, "top1_sum": 8.0, "top5_sum": 16.0, "count": 32.0}
        reporter.add(sums | {"grad_norm": norm, "learning_rate": 0.1})

    return one


def lines(reporter: Reporter) -> list[dict[str, Any]]:
    return read_json_lines(reporter.setup.folder / "metrics.jsonl")


def test_lines_of_training(tiny, tmp_path, clock, update, capsys):
    """A rate covers the steps since the last line, except the first, which compiles."""
    setup = set_up(replace(tiny, workdir=tmp_path, steps=8))
    with Reporter(setup, Goodput(), 0) as reporter:
        update(reporter, 1000.0, 1.0)
        assert not reporter.images_per_second()
        update(reporter, 1.0, 1.0)
        reporter.log(2)
        update(reporter, 2.0, 3.0)
        update(reporter, 2.0, 2.0)
        clock[0] += 500.0  # of something else
        reporter.log(4)
        reporter.log(4)
        update(reporter, 4.0, 0.5)
        reporter.log(5)
    first, second, third = lines(reporter)
    rates = [line["images_per_second"] for line in (first, second, third)]
    assert rates == [32.0, 16.0, 8.0]
    assert [line["count"] for line in (first, second, third)] == [64.0, 64.0, 32.0]
    assert (second["loss_sum"], second["top1_sum"]) == (128.0, 16.0)
    assert (second["highest_grad_norm"], second["grad_norm"]) == (3.0, 2.0)
    assert third["highest_grad_norm"] == 0.5
    said = capsys.readouterr().out
    # 4 and 3 updates of 32 images are left.
    assert "step 4/8, epoch 0.09: loss 2, top-1 25.0%, 16.0 images/s, 00:08 left" in said
    assert "8.0 images/s, 00:12 left" in said


def test_the_time_of_all_sessions(tiny, tmp_path, clock, update, capsys):
    setup, goodput = set_up(replace(tiny, workdir=tmp_path)), Goodput()
    before = {"session": 0.0, "step": 0, "seconds": dict.fromkeys(KINDS, 0.0)}
    before["seconds"] |= {"data_wait": 30.0}
    append_json_line(tmp_path / "goodput.jsonl", before)
    with Reporter(setup, goodput, 0) as reporter:
        update(reporter, 90.0, 1.0)
        reporter.account(1)
        reporter.print_time()
    said = capsys.readouterr().out
    assert "Wall time 02:00: init 0.0%" in said
    assert "data wait 25.0%, step 75.0%" in said


@pytest.mark.parametrize("norms", [(np.nan, 1.0), (1.0, np.nan)])
def test_the_highest_norm_keeps_a_nan(tiny, tmp_path, update, norms):
    with Reporter(set_up(replace(tiny, workdir=tmp_path)), Goodput(), 0) as reporter:
        for norm in norms:
            update(reporter, 1.0, norm)
        reporter.log(2)
    assert lines(reporter)[0]["highest_grad_norm"] is None


def test_evaluations_and_bad_images(tiny, tmp_path, update, capsys):
    sums = {"loss_sum": 4.0, "top1_sum": 1.0, "top5_sum": 2.0, "count": 4.0}
    both = {"raw": sums, "ema": sums | {"top1_sum": 3.0}}
    with Reporter(set_up(replace(tiny, workdir=tmp_path)), Goodput(), 0) as reporter:
        update(reporter, 1.0, 1.0)
        reporter.log(3)
        reporter.skipped(["a.jpg", "b.jpg", "a.jpg"])
        reporter.evaluated(5, both)
    skipped = [line for line in lines(reporter) if line["kind"] == "skipped"]
    assert skipped == [
        {"kind": "skipped", "step": 3, "image": name} for name in ("a.jpg", "b.jpg")
    ]
    epoch = round(5 * 32 / 1500, 4)
    assert lines(reporter)[-1] == {"kind": "eval", "step": 5, "epoch": epoch, **both}
    said = capsys.readouterr().out
    assert (
        "step 5, 4 images: raw top-1 25.00%, top-5 50.00%, loss 1; ema top-1 75.00%" in said
    )


def test_probes(tiny, tmp_path, update):
    """Vectors and scalars are rounded, and the group metrics of the last step added."""
    with Reporter(set_up(replace(tiny, workdir=tmp_path)), Goodput(), 0) as reporter:
        update(reporter, 1.0, 1.0)
        reporter.last_values |= {"grad_norm/stem": 1.23456789, "update_ratio/stem": np.nan}
        blocks = np.array([123456.78, np.nan], np.float32)
        reporter.probed(
            4, {"dead": blocks, "curvature": np.float32(1e-9), "one": blocks[:1]}
        )
    assert lines(reporter)[-1] == {
        "kind": "probe",
        "step": 4,
        "epoch": round(4 * 32 / 1500, 4),
        "dead": [123460.0, None],
        "curvature": 1e-9,
        "one": [123460.0],
        "grad_norm/stem": 1.2346,
        "update_ratio/stem": None,
    }


def test_curves_continue_at_the_checkpoint(tiny, tmp_path, monkeypatch):
    """TensorBoard discards later points."""
    purged = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            purged.append(purge_step)

        def close(self) -> None:
            purged.append("closed")

    monkeypatch.setattr(scalar_log, "SummaryWriter", Writer)
    setup = set_up(replace(tiny, workdir=tmp_path))
    for step in (0, 4):
        with Reporter(setup, Goodput(), step):
            pass
    assert purged == [1, "closed", 5, "closed"]


def test_weights_and_biases_is_missing(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    setup = set_up(replace(tiny, workdir=tmp_path, wandb="project"))
    with pytest.raises(ImportError, match=r"pip install .inception_jax\[wandb\]"):
        Reporter(setup, Goodput(), 0)


@pytest.mark.parametrize(("sync", "images"), [("none", 4), (2, 8), ("global", 16)])
def test_the_greeting_says_what_batch_norm_sees(tiny, tmp_path, sync, images):
    config = replace(tiny, accumulate=2, parallel=ParallelConfig(bn_sync=sync))
    said = greeting(set_up(replace(config, workdir=tmp_path)), 4)
    assert f"4 at a time on each device; batch statistics of {images} images." in said
    assert "6 steps (0.128 epochs), resuming after step 4, in" in said


def test_a_second_signal_ends_at_once(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert "SIGTERM: saving after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
