# SPDX-License-Identifier: Apache-2.0
"""Implementations are timed alternately and reported as measured."""

import json
import math
import time
from dataclasses import replace

import pytest

from experiments.speed import __main__ as speed
from experiments.speed.case import Case
from experiments.speed.process import WorkerProcess
from experiments.speed.progress import Progress
from experiments.speed.report import report
from experiments.speed.timing import AlternatingTimer, OutOfTimeError
from experiments.speed.worker import Worker, answer

CASE = Case("inception_v4", "training", 4, 75, "float32")
START = {
    "first_step": 7.0,
    "first_step_cpu": 8.0,
    "since_start": 9.0,
    "parameters": 10,
    "macs": 10**9,
}


def _steps(steps, seconds):
    return {"steps": steps, "seconds": seconds, "cpu_seconds": 2 * seconds}


class FakeWorker:
    """A worker that answers at once and notes every request in `log`."""

    def __init__(self, name, faults=(), log=None):
        self.name, self.faults, self.log = name, dict(faults), log

    def build(self, case):
        self.log.append(("build", self.name))
        return self.faults.get("build", START)

    def ask(self, do, **values):
        self.log.append((do, self.name))
        if do == "run":
            return self.faults.get("run", _steps(values["steps"], 0.5))
        return {"bytes": 2e6, "of": "process"}

    def close(self):
        self.log.append(("close", self.name))


def fake_timer(tmp_path, faults=(), **changes):
    """Return a timer of three fake workers, the list of its records and their log."""
    records, log, faults = [], [], dict(faults)

    def start(name, *_):
        return FakeWorker(name, faults.get(name, ()), log)

    fields = {
        "implementations": ("ours", "plain", "timm"),
        "rounds": 2,
        "seconds": 2.0,
        "build_together": False,
        "restart": True,
        "logs": tmp_path,
        "save": records.append,
        "deadline": math.inf,
        "start": start,
    }
    return AlternatingTimer(**fields | changes), records, log


def test_implementations_are_timed_alternately(tmp_path):
    timer, records, log = fake_timer(tmp_path)
    timer.measure(CASE)
    # The first two requests to each worker determine the number of steps.
    ran = [name for do, name in log if do == "run"][6:]
    order = ["ours", "plain", "timm", "timm", "plain", "ours"]
    assert ran == [name for name in order for _ in ("untimed", "timed")]
    assert {r["steps"] for r in records if r["kind"] == "round"} == {4}  # 2 s of 0.5
    starts = [(r["implementation"], r["cached"]) for r in records if r["kind"] == "start"]
    names = ("ours", "plain", "timm")
    assert starts == [(n, False) for n in names] + [(n, True) for n in names]
    # Restarts are timed alone: all other processes have ended by then.
    first_again = max(i for i, act in enumerate(log) if act == ("build", "ours"))
    assert {name for do, name in log[:first_again] if do == "close"} == set(names)


def test_a_failure_is_reported_and_the_others_continue(tmp_path):
    faults = {
        "plain": {"run": {"no_memory": "too little"}},
        "timm": {"build": {"missing": "timm is missing"}},
    }
    timer, records, _ = fake_timer(tmp_path, faults, build_together=True)
    timer.measure(CASE)
    rounds = [
        r["implementation"] for r in records if r["kind"] == "round" and "seconds" in r
    ]
    assert rounds == ["ours", "ours"]
    tried = [r["kind"] for r in records if r["implementation"] == "plain"]
    assert tried == ["start", "round"]
    said = report(records)
    assert "not measured: plain, inception_v4, training, batch 4: too little" in said
    assert "not measured: timm, inception_v4, training, batch 4: timm is missing" in said


def test_after_running_out_of_memory_no_larger_batch_is_tried(tmp_path):
    faults = {"timm": {"build": {"no_memory": "too little"}}}
    timer, _, log = fake_timer(tmp_path, faults, restart=False)
    timer.measure(CASE)
    timer.measure(replace(CASE, batch=8))
    assert log.count(("build", "timm")) == 1
    timer.measure(replace(CASE, task="inference"))
    assert log.count(("build", "timm")) == 2


def test_memory_is_shared_by_installed_implementations(tmp_path):
    shares = []

    def start(name, log, cache, memory, deadline):
        shares.append(memory)
        return FakeWorker(name, {"build": {"missing": ""}} if name == "timm" else (), [])

    timer, *_ = fake_timer(tmp_path, start=start, restart=False)
    timer.measure(CASE)
    timer.measure(CASE)
    assert shares == pytest.approx([0.3, 0.3, 0.3, 0.45, 0.45])


def test_the_best_batch_of_each_implementation():
    seconds = {("ours", 4): 1, ("ours", 8): 4, ("timm", 4): 4, ("timm", 8): 4}
    records = [
        record("round", name, round=0, **_steps(1, s)) | {"batch": batch}
        for (name, batch), s in {**seconds, ("ours", 1): 1}.items()
    ]
    said = report(records)
    assert "| inception_v4 | training | ours | 4 | 4 | 1 |" in said
    assert "| inception_v4 | training | timm | 8 | 2 | 2 |" in said
    assert "best" not in report([r for r in records if r["batch"] == 4])


def test_nothing_starts_after_the_deadline(tmp_path):
    timer, records, log = fake_timer(tmp_path, deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTimeError):
        timer.measure(CASE)
    assert not records
    assert not log


def test_a_worker_is_killed_at_the_deadline(tmp_path):
    worker = WorkerProcess("ours", tmp_path / "log", tmp_path, 0.5, time.monotonic() + 0.2)
    assert "ended with status -9" in worker.ask("machine")["error"]
    worker.close()


def test_an_interruption_does_not_wait_for_compilations(tmp_path):
    log, started = [], set()

    class Slow(FakeWorker):
        def build(self, case):
            if self.name == "timm":
                while len(started) < 3:  # closing is for workers that started
                    time.sleep(0.01)
                return super().build(case)
            while ("close", self.name) not in self.log:
                time.sleep(0.01)
            return {"error": "ended"}

    def interrupt(record):
        raise KeyboardInterrupt

    def start(name, *_):
        started.add(name)
        return Slow(name, log=log)

    names = ("timm", "ours", "plain")
    changes = {"implementations": names, "start": start, "save": interrupt}
    timer, *_ = fake_timer(tmp_path, build_together=True, **changes)
    with pytest.raises(KeyboardInterrupt):
        timer.measure(CASE)
    assert {name for do, name in log if do == "close"} == set(names)


def record(kind, implementation, **values):
    case = {"network": "inception_v4", "task": "training", "batch": 4}
    fixed = {"image_size": 75, "dtype": "float32"}
    return {"kind": kind, **case, **fixed, "implementation": implementation, **values}


def test_the_tables():
    records = [
        {
            **{"kind": "machine", "device": "1 x X", "cores": 2, "processor": "Y"},
            **{"load": 0.52, "xla_flags": "--xla_x=1", "compiler_options": {"xla_y": 2}},
            **{"versions": "jax 1", "product": "2x2", "product_flops": 2e11},
            **{"peak_flops": 4e11, "platform": "cpu"},
        },
        record("start", "ours", cached=False, **START),
        record("start", "ours", cached=True, **START | {"first_step": 1.5}),
        record("start", "timm", cached=False, **START | {"parameters": 11}),
        *(
            record("round", "ours", round=i, **_steps(2, s))
            for i, s in enumerate((1.0, 2.0, 4.0))
        ),
        *(
            record("round", "timm", round=i, **_steps(1, s))
            for i, s in enumerate((1.0, 2.0, 1.0))
        ),
        record("memory", "ours", bytes=5e6, of="process"),
    ]
    said = report(records)
    # 2 steps of 4 images in 1, 2 and 4 s; 4 images/s x 6 GFLOP are 12 % of 0.2 TFLOP/s.
    ours_line = "| ours | 4 (2 to 8) |  | 1,000 (500 to 2,000) | 12.0% | 5 | 2 (1 to 4) |"
    assert ours_line in said
    # Round by round 8/4, 4/2 and 2/4.
    timm_line = "| timm | 4 (2 to 4) | 2 (0.5 to 2) | 1,000 (1,000 to 2,000) | 12.0% | - |"
    assert f"{timm_line} 2 (1 to 2) | 2 (0.5 to 2) |" in said
    # 7 s, and 1 s for a later step.
    assert "| inception_v4 | training | 4 | ours | 7 | 1 | 8 | 9 | 1.5 | 9 |" in said
    assert "timm's inception_v4 has 11 parameters, ours has 10" in said
    assert "1 x X, 2 cores (Y), load 0.5 before the benchmark; jax 1." in said
    assert "jax 1. XLA_FLAGS=--xla_x=1 for all implementations on JAX." in said
    assert "JAX. xla_y=2 for this package. A matrix multiplication of 2x2 runs" in said
    assert "at 0.2 TFLOP/s; the vendor's peak is 0.4." in said
    assert "plain" not in said


def test_progress_estimates_the_time_left(capsys):
    now = [0.0]
    progress = Progress(3, 600.0, lambda: now[0])
    progress.show(record("round", "ours", round=0, **_steps(1, 2.0)))
    now[0] = 100.0
    progress.show(record("round", "ours", round=0, **_steps(1, 2.0)) | {"batch": 8})
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(
        "[1/3] inception_v4 training, batch 4: ours, round 1: "
        "2 images/s; at most 10:00 left"
    )
    assert said[1].endswith("round 1: 4 images/s; at most 3:20 left")


def test_the_plans(tmp_path):
    cases = list(speed.cases(speed.Options(plan="gpu", out=tmp_path)))
    assert [c.batch for c in cases[:6]] == [64, 64, 64, 64, 1, 1]
    assert [c.batch for c in cases[6:]] == [128] * 4 + [256] * 4 + [512] * 4
    assert {c.dtype for c in cases} == {"bfloat16"}


def test_bad_options_are_reported_before_anything_starts(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert speed.main(["--networks", "inception_v5", *out]) == 2
    assert "no network 'inception_v5'; did you mean" in capsys.readouterr().err
    for wrong, words in (
        (["--rounds", "0"], "must be positive"),
        (["--implementations", "plain"], "must include 'ours'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            speed.main([*wrong, *out])
        assert words in " ".join(capsys.readouterr().err.split())
    (tmp_path / "records.jsonl").touch()
    assert speed.main(out) == 2
    assert "already has records" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    def measure(options, save):
        save(record("round", "ours", round=0, **_steps(1, 2.0)))
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure", measure)
    assert speed.main(["--out", str(tmp_path)]) == 130
    assert "the measurements so far are kept" in capsys.readouterr().err
    assert json.loads((tmp_path / "records.jsonl").read_text())["implementation"] == "ours"
    assert "| ours | 2 (2 to 2) |" in (tmp_path / "tables.md").read_text()


def test_a_worker_is_a_process_that_answers(tmp_path):
    worker = WorkerProcess("ours", tmp_path / "log", tmp_path, 0.5, math.inf)
    try:
        answered = worker.build(replace(CASE, network="inception_v5"))
        assert "no network 'inception_v5'" in answered["refused"]
        assert worker.ask("machine")["product_flops"] > 0
        worker.process.kill()
        assert "ended with status -9" in worker.ask("peak")["error"]
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ImportError("x is missing"), "missing"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GB"), "no_memory"),
        (MemoryError("3 GB"), "no_memory"),
        (RuntimeError("broken"), "error"),
    ],
)
def test_failures_are_answers(error, kind):
    class Failing(Worker):
        def peak(self):
            raise error

    assert str(error) in answer(Failing("ours"), {"do": "peak"})[kind]


@pytest.mark.slow
def test_the_command_measures_ours_and_plain(tmp_path, capsys):
    what = ["--sides", "ours", "plain", "--networks", "inception_resnet_small"]
    sizes = ["--image-size", "8", "--rounds", "2", "--questions", "training"]
    assert speed.main([*what, *sizes, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| inception_resnet_small | 8 | plain |" in said
    assert "not measured" not in said
