# SPDX-License-Identifier: Apache-2.0
"""A run from its configuration: the files it writes, how it resumes, how it ends."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from inception_jax.data.batches import train_batches
from inception_jax.data.open_source import open_source
from inception_jax.inference.evaluate import evaluate, load_state, load_trained
from inception_jax.models.network import create
from inception_jax.models.summary import summarise
from inception_jax.runtime.devices import PEAK_BFLOAT16
from inception_jax.runtime.goodput import total_seconds
from inception_jax.storage.files import CheckpointError, append_json_line, read_json_lines
from inception_jax.storage.run_folder import read_record
from inception_jax.training import feed, loop
from inception_jax.training.fit import fit
from inception_jax.training.from_config import preprocess_for
from inception_jax.training.loop import NonFiniteError
from inception_jax.training.reporter import Reporter
from tests.runs import compiled_by, records

assert_equal = partial(jax.tree.map, np.testing.assert_array_equal)


def state_of(workdir: Path, step: int | None = None):
    return jax.device_get(load_state(workdir, jax.devices(), step).state)


def test_the_files_of_a_run(tiny, tmp_path):
    config = replace(tiny, workdir=tmp_path / "run", residual_scale=0.9)
    start = time.perf_counter()
    assert fit(config, start)
    seconds = time.perf_counter() - start
    record = read_record(config.workdir)
    assert record.config == config
    assert record.class_names == tuple("0123456789")
    assert record.preprocess.image_shape == (8, 8, 1)
    assert (record.num_train, record.num_eval, record.steps) == (1500, 297, 6)
    (session,) = record.sessions
    assert (session.devices, session.processes) == ("4 x cpu", 1)
    lines = records(config.workdir, "train")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["count"] for line in lines] == [64.0] * 3
    assert all(0 < line["loss_sum"] / 64 < 10 for line in lines)
    assert lines[0]["epoch"] == pytest.approx(2 * 32 / 1500, abs=1e-4)
    (evaluation,) = records(config.workdir, "eval")
    assert evaluation["raw"]["count"] == evaluation["ema"]["count"] == 297.0
    state = state_of(config.workdir)
    assert state.step == 6
    # Raw and averaged weights are not exchanged, in the record or when they are loaded.
    model = load_trained(config.workdir, jax.devices())
    assert_equal(model.variables, {"raw": state.raw_variables, "ema": state.ema_variables})
    source = open_source("digits", "eval", config.data_dir)
    again, _ = evaluate([model], source, views=1, batch_size=32, devices=jax.devices())
    for weights in ("raw", "ema"):
        assert again[weights] == pytest.approx(evaluation[weights], rel=1e-5)
    assert again["raw"]["loss_sum"] != pytest.approx(again["ema"]["loss_sum"], rel=1e-4)
    # The account of time adds up to the wall time.
    spent = total_seconds(read_json_lines(config.workdir / "goodput.jsonl"))
    assert sum(spent.values()) == pytest.approx(seconds, rel=0.02)
    assert all(spent[kind] > 0 for kind in spent.keys() - {"lost"})
    assert spent["lost"] == 0
    (events,) = (config.workdir / "tensorboard").glob("events.*")
    for curve in (b"train/loss", b"train/learning_rate", b"eval_ema/top1"):
        assert curve in events.read_bytes()


def test_resuming_is_exact(tiny, tmp_path):
    """In the middle of an epoch, with dropout and augmentation."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(replace(tiny, workdir=whole))
    fit(replace(tiny, workdir=parts, steps=4))
    assert fit(replace(tiny, workdir=parts))
    assert_equal(state_of(parts), state_of(whole))
    assert records(parts, "train") == records(whole, "train")
    assert records(parts, "eval")[-1] == records(whole, "eval")[-1]


def test_steps_after_the_last_checkpoint_are_repeated(tiny, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fit(replace(tiny, workdir=whole))
    fit(replace(tiny, workdir=killed, steps=2))
    # Lines that a killed process wrote after its last checkpoint.
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 4}\n{"kind')
    session = read_json_lines(killed / "goodput.jsonl")[-1]
    session |= {"step": 4, "seconds": {**session["seconds"], "step": 1000.0}}
    append_json_line(killed / "goodput.jsonl", session)
    fit(replace(tiny, workdir=killed))
    assert records(killed, "train") == records(whole, "train")
    spent = total_seconds(read_json_lines(killed / "goodput.jsonl"))
    assert spent["lost"] == pytest.approx(1000, rel=0.02)
    assert spent["step"] < 100


def test_a_complete_run(tiny, tmp_path):
    """Nothing is repeated, and a run is complete when it becomes shorter."""
    config = replace(tiny, workdir=tmp_path, steps=2)
    fit(config)
    before = state_of(tmp_path), records(tmp_path, "train")
    for steps in (2, 1):
        assert fit(replace(config, steps=steps))
        assert_equal(state_of(tmp_path), before[0])
        assert records(tmp_path, "train") == before[1]


def test_a_damaged_checkpoint_is_not_used(tiny, tmp_path, capsys):
    config = replace(tiny, workdir=tmp_path, steps=3, checkpoint_every=0.01)
    fit(config)
    (tmp_path / "checkpoints" / "3" / "state" / "_METADATA").write_bytes(b"")
    # Reading uses the one before it, unless the damaged one is requested.
    assert load_state(tmp_path, jax.devices()).step == 2
    assert "checkpoints/3 is damaged" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"checkpoints/3 is damaged"):
        state_of(tmp_path, 3)
    # Resuming uses the same one, and moves the damaged one away.
    fit(config)
    assert "The checkpoint of step 2 is the newest intact one" in capsys.readouterr().err
    assert (tmp_path / "quarantine" / "3.txt").is_file()
    fit(replace(config, workdir=tmp_path / "whole"))
    assert_equal(state_of(tmp_path), state_of(tmp_path / "whole"))
    # If none is good, the run does not start again from step 0.
    for path in (tmp_path / "checkpoints").glob("*/state/_METADATA"):
        path.write_bytes(b"")
    for use in (partial(fit, config), partial(fit, config), partial(state_of, tmp_path)):
        with pytest.raises(CheckpointError, match=r"are damaged \(steps 3, 2, 1\)"):
            use()


def test_another_seed_is_another_run(tiny, tmp_path):
    for seed in (0, 1):
        fit(replace(tiny, workdir=tmp_path / str(seed), seed=seed, steps=2))
    a, b = (state_of(tmp_path / name).params for name in "01")
    assert not np.array_equal(a["Logits"]["kernel"], b["Logits"]["kernel"])


def test_one_compilation_of_each_step(tiny, tmp_path, compilations):
    """The partial last batch of 297 images needs no second program."""
    run = partial(replace, tiny)
    compiled_by(compilations, run(workdir=tmp_path / "warm", steps=2))
    once = compiled_by(compilations, run(workdir=tmp_path / "a", steps=2))
    assert once
    often = {"eval_every": 0.05, "checkpoint_every": 0.05}
    longer = run(workdir=tmp_path / "b", steps=5, **often)
    assert compiled_by(compilations, longer) == once
    assert len(records(tmp_path / "b", "eval")) == 2
    # A line covers two steps; the last one covers the rest.
    lines = [(line["step"], line["count"]) for line in records(tmp_path / "b", "train")]
    assert lines == [(2, 64.0), (4, 64.0), (5, 32.0)]


def test_parts_of_the_data(tiny, tmp_path):
    """A part of the training split can be held out for evaluation."""
    parts = {"train_split": "train[:90%]", "eval_split": "train[90%:]"}
    fit(replace(tiny, workdir=tmp_path / "run", steps=1, **parts))
    record = read_record(tmp_path / "run")
    assert (record.num_train, record.num_eval) == (1350, 150)
    assert records(tmp_path / "run", "eval")[-1]["raw"]["count"] == 150


def test_intervals_in_epochs(tiny, tmp_path):
    """1500 / 500 = 3 steps per epoch."""
    config = replace(tiny, batch_size=500, steps=None, epochs=2.5, eval_every=0.5)
    fit(replace(config, workdir=tmp_path / "a", checkpoint_every=1.0, keep_checkpoints=2))
    assert [line["step"] for line in records(tmp_path / "a", "eval")] == [2, 3, 5, 6, 8]
    assert read_record(tmp_path / "a").steps == 8
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == ["6", "8"]
    assert [state_of(tmp_path / "a", step).step for step in (6, None)] == [6, 8]


def test_a_non_finite_loss_ends_the_run(tiny, tmp_path):
    optimizer = replace(tiny.optimizer, learning_rate=1e30)
    config = replace(tiny, workdir=tmp_path / "run", optimizer=optimizer, steps=50)
    # No state after it is saved, even if every step is saved.
    config = replace(config, checkpoint_every=0.01, log_every=50)
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is") as error:
        fit(config)
    assert "--optimizer.clip-norm" in str(error.value)
    line = records(config.workdir, "train")[-1]
    assert line["loss_sum"] is None or line["highest_grad_norm"] is None
    assert f"step {line['step']}:" in str(error.value)
    saved = [int(path.name) for path in (config.workdir / "checkpoints").iterdir()]
    assert max(saved, default=0) == line["step"] - 1 < 50
    assert np.isfinite(state_of(config.workdir).params["Logits"]["kernel"]).all()
    # The images of that step are named; their labels are those of its batch.
    (said,) = records(config.workdir, "not_finite")
    assert said["step"] == line["step"]
    assert ", ".join(said["images"][:3]) in str(error.value)
    source = open_source("digits", "train", config.data_dir)
    labels = {example["name"]: example["label"] for example in source.examples}
    batches = train_batches(
        source,
        preprocess=preprocess_for(config),
        augment=config.augment,
        batch_size=32,
        seed=config.seed,
    )
    expected = batches[line["step"] - 1]["label"].tolist()
    assert [labels[name] for name in said["images"]] == expected


def test_a_non_finite_loss_can_be_recorded(tiny, tmp_path):
    optimizer = replace(tiny.optimizer, learning_rate=1e30)
    config = replace(tiny, workdir=tmp_path / "run", optimizer=optimizer)
    assert fit(replace(config, on_nonfinite="record"))
    assert records(config.workdir, "train")[-1]["loss_sum"] is None
    (said,) = records(config.workdir, "not_finite")  # once, not at every step
    assert 1 <= said["step"] < 6
    assert len(said["images"]) == 32


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_ends(tiny, tmp_path, monkeypatch, number):
    log = Reporter.log

    def log_and_raise(self: Reporter, step: int) -> None:
        log(self, step)
        signal.raise_signal(number)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "log", log_and_raise)
        assert not fit(replace(tiny, workdir=stopped))
    assert signal.getsignal(number) == before
    assert state_of(stopped).step == 2
    assert fit(replace(tiny, workdir=stopped))
    fit(replace(tiny, workdir=whole))
    assert_equal(state_of(stopped), state_of(whole))


@pytest.mark.parametrize("steps", [6, pytest.param(4, marks=pytest.mark.slow)])
def test_a_signal_in_an_evaluation(tiny, tmp_path, monkeypatch, steps):
    """The evaluation is interrupted, and repeated with the same weights on resuming."""
    times = iter(range(2, 100, 2))

    def interrupted(*arguments: Any) -> Iterator[dict]:
        step = next(times)
        for number, batch in enumerate(feed.eval_feed(*arguments)):
            if number == 3 and step == steps:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    # 1500 / 32 = 46.9 steps per epoch, so steps 2, 4 and 6 are evaluated.
    config = replace(tiny, eval_every=2 / 46.875)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "eval_feed", interrupted)
        assert not fit(replace(config, workdir=stopped))
    assert state_of(stopped).step == steps
    assert [line["step"] for line in records(stopped, "eval")] == list(range(2, steps, 2))
    assert fit(replace(config, workdir=stopped))
    fit(replace(config, workdir=whole))
    assert_equal(state_of(stopped), state_of(whole))
    for kind in ("train", "eval"):
        assert records(stopped, kind) == records(whole, kind)


def set_accuracies(monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, int]) -> None:
    """Make evaluations report these numbers of hits at these steps, with a fixed loss."""
    evaluated = Reporter.evaluated

    def tell(self: Reporter, step: int, sums: dict) -> None:
        found = sums["ema"] | {"top1_sum": float(accuracies[step]), "loss_sum": 297.0}
        evaluated(self, step, {**sums, "ema": found})

    monkeypatch.setattr(Reporter, "evaluated", tell)


def test_early_stopping_is_exact(tiny, tmp_path, monkeypatch, capsys):
    """It stops after two evaluations without a better one; an equal one is not better.

    Interruptions and lines after the last checkpoint do not change that.
    """
    set_accuracies(monkeypatch, {2: 10, 4: 30, 6: 20, 8: 30, 10: 30, 12: 40})
    every = {"eval_every": 2 / 46.875, "checkpoint_every": 4 / 46.875}
    config = replace(tiny, steps=12, patience=2, workdir=tmp_path / "whole", **every)
    assert fit(config)
    assert state_of(config.workdir).step == 8
    assert [line["step"] for line in records(config.workdir, "eval")] == [2, 4, 6, 8]
    assert records(config.workdir, "train")[-1]["step"] == 8
    assert (
        "stopped early at step 8: 2 evaluations without a better one"
        in capsys.readouterr().out
    )
    log = Reporter.log

    def log_and_raise(self: Reporter, step: int) -> None:
        log(self, step)
        if step == 6:
            signal.raise_signal(signal.SIGTERM)

    stopped = replace(config, workdir=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "log", log_and_raise)
        assert not fit(stopped)
    # A killed process may have written more evaluations than it saved states.
    for step in (8, 10):
        line = records(stopped.workdir, "eval")[-1] | {"step": step}
        append_json_line(stopped.workdir / "metrics.jsonl", line)
    assert fit(stopped)
    assert_equal(state_of(stopped.workdir), state_of(config.workdir))
    for kind in ("train", "eval"):
        assert records(stopped.workdir, kind) == records(config.workdir, kind)
    # It is complete until its patience is increased.
    assert fit(config)
    assert state_of(config.workdir).step == 8
    assert fit(replace(config, patience=3))
    assert state_of(config.workdir).step == 10


def test_patience_at_the_last_step(tiny, tmp_path, monkeypatch):
    set_accuracies(monkeypatch, {2: 30, 4: 20, 6: 10})
    config = replace(tiny, patience=2, eval_every=2 / 46.875, workdir=tmp_path)
    assert fit(config)
    assert [line["step"] for line in records(tmp_path, "eval")] == [2, 4, 6]
    assert fit(config)
    assert state_of(tmp_path).step == 6


def test_another_run_in_the_folder(tiny, tmp_path):
    config = replace(tiny, workdir=tmp_path / "run", steps=2)
    fit(config)
    other = replace(config, optimizer=replace(config.optimizer, momentum=0.5), seed=3)
    message = r"seed 0 instead of 3; optimizer.momentum 0.9 instead of 0.5"
    with pytest.raises(ValueError, match=message):
        fit(other)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(ValueError, match="photos is not empty and is not a run folder"):
        fit(replace(config, workdir=tmp_path / "photos"))


def test_runs_of_one_process_share_what_is_compiled(tiny, tmp_path, compilations):
    """Another seed or residual scale does not recompile."""
    config = replace(tiny, residual_scale=0.1, probe_every=3)
    assert compiled_by(compilations, replace(config, workdir=tmp_path / "first")) >= 4
    compilations.clear()
    fit(replace(config, seed=1, residual_scale=0.3, workdir=tmp_path / "other"))
    assert len(compilations) <= 1  # neither steps nor initial weights


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({}, "--accumulate 2 or --remat."),
        ({"accumulate": 2, "remat": True}, "--accumulate 4."),
    ],
)
def test_a_batch_that_does_not_fit(tiny, tmp_path, monkeypatch, changes, cure):
    """XLA's error becomes a sentence with advice."""

    def update(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(loop, "train_step", update)
    monkeypatch.setattr(
        loop, "compiled_steps", loop.compiled_steps.__wrapped__
    )  # for no other test
    config = replace(tiny, workdir=tmp_path / "run", **changes)
    with pytest.raises(ValueError, match="--batch-size 32 does not fit in") as error:
        fit(config)
    assert str(error.value).endswith(f"choose a smaller one, or {cure}")


def test_bad_images_on_record(tiny, tmp_path, photos):
    """Unreadable images are an error or, with "skip", recorded once."""
    for bad in (photos / "val" / "b" / "b1.jpg", photos / "train" / "a" / "a1.jpg"):
        bad.write_bytes(b"no image")
    config = replace(
        tiny, data=f"folder:{photos}", batch_size=8, steps=6, workdir=tmp_path / "run"
    )
    with pytest.raises(ValueError, match=bad.name):
        fit(config)
    config = replace(config, on_bad_image="skip", workdir=tmp_path / "skip")
    assert fit(config)
    first, second = (line["image"] for line in records(config.workdir, "skipped"))
    assert "a1.jpg" in first
    assert "b1.jpg" in second
    assert records(config.workdir, "eval")[-1]["ema"]["count"] == 7.0


def test_use_of_the_hardware_where_its_peak_is_known(tiny, tmp_path, monkeypatch):
    """MFU is 6 operations per multiply-accumulate and image, over the peak of 4 devices."""
    monkeypatch.setitem(PEAK_BFLOAT16, jax.devices()[0].device_kind, 1e9)
    config = replace(tiny, workdir=tmp_path / "run")
    fit(config)
    macs = summarise(create("tiny")).macs
    for line in read_json_lines(config.workdir / "metrics.jsonl")[:3]:
        expected = line["images_per_second"] * 6 * macs / 4e9
        assert line["mfu"] == pytest.approx(expected, abs=1e-4)
        assert line["mfu"] > 0


def test_prefetching_keeps_the_order():
    assert list(feed.one_ahead(range(5))) == [0, 1, 2, 3, 4]
