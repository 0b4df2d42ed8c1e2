# SPDX-License-Identifier: Apache-2.0
"""A run of two processes ends in both when one is stopped, killed or stuck.

The slow tests take minutes: `pytest --slow -s tests/runtime/test_two_hosts.py`.
"""

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from inception_jax.inference.evaluate import load_state
from inception_jax.runtime.stopping import ExitStatus
from inception_jax.storage.files import read_json_lines
from inception_jax.storage.run_folder import read_record
from inception_jax.training.fit import fit
from tests.drills import COMMAND_WITH_TINY, OPTIONS, what_is_left
from tests.processes import Processes
from tests.runs import records

# In process STUCK no data arrives for the sixth step.
STUCK = """
import os, sys, time
from inception_jax.training import loop
feed = loop.train_feed
def waits_for_a_disk():
    time.sleep(3600)
def stuck(*arguments):
    for number, batch in enumerate(feed(*arguments)):
        if number == 5 and f"--hosts.index={os.environ.get('STUCK')}" in sys.argv:
            waits_for_a_disk()
        yield batch
loop.train_feed = stuck
"""


def hosts(data_dir: str, folder: Path, *options: str, stuck: int | None = None):
    """Start two processes with two devices each, which train the tiny network."""
    program, code = COMMAND_WITH_TINY[1:]
    logs = folder.with_name(f"{folder.name} says")
    logs.mkdir(exist_ok=True)
    saving = ("--checkpoint-every", "0.08")  # about every four steps
    arguments = [*OPTIONS, *saving, "--network", "tiny", "--data-dir", data_dir, *options]
    return Processes(
        [program, STUCK + code, *arguments, "--workdir", str(folder)],
        count=2,
        devices=2,
        folder=logs,
        environment={"STUCK": str(stuck), "PYTHONUNBUFFERED": "1"},
    )


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_a_signal_to_one_stops_both(tiny, tmp_path, capsys):
    """Both save after the same step, and one process resumes the run of two."""
    folder = tmp_path / "stopped"
    with hosts(tiny.data_dir, folder, "--steps", "1000", "--probe-every", "5") as pair:
        pair.wait_for("\nstep 6/", 0, 120)
        pair.running[1].send_signal(signal.SIGTERM)
        assert pair.wait(60) == [ExitStatus.RUN_AGAIN] * 2, pair.said_by_all()
    assert "SIGTERM: saving" in pair.said(1)
    stopped = steps(folder)[-1]
    assert stopped == records(folder, "train")[-1]["step"] >= 6
    assert not list((folder / "hosts").iterdir())
    config = replace(read_record(folder).config, steps=stopped + 3)
    assert fit(replace(config, hosts=tiny.hosts))
    assert "no longer equal bit for bit" in " ".join(capsys.readouterr().err.split())
    whole = replace(config, workdir=tmp_path / "whole", hosts=tiny.hosts)
    assert fit(whole)
    # Two processes add the sums over four devices in another order than one.
    here, there = (records(f, "train") for f in (folder, whole.workdir))
    for name in ("step", "count", "loss_sum", "grad_norm"):
        assert [x[name] for x in here] == pytest.approx([x[name] for x in there], rel=1e-3)
    here, there = (records(f, "eval") for f in (folder, whole.workdir))
    assert [x["step"] for x in here] == [x["step"] for x in there]
    for weights in ("raw", "ema"):
        sums = zip(here, there, strict=True)
        for one, other in ((x[weights], y[weights]) for x, y in sums):
            assert one["count"] == other["count"] == 297
            assert one["loss_sum"] == pytest.approx(other["loss_sum"], rel=1e-3)
    here, there = (records(f, "probe") for f in (folder, whole.workdir))
    assert [x["step"] for x in here] == [x["step"] for x in there] != []
    for name in ("feature_norm2", "logit_rms", "curvature", "ema_gap"):
        assert [x[name] for x in here] == pytest.approx([x[name] for x in there], rel=1e-2)
    here, there = (load_state(f, jax.devices()).state for f in (folder, whole.workdir))
    close = partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4)
    jax.tree.map(close, here, there)
    processes = [session.processes for session in read_record(folder).sessions]
    assert processes == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", [0, 1, "all"])
def test_resuming_is_exact(tiny, tmp_path, number, to):
    """Compare two processes that were stopped and resumed with two that were not."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    length = ("--steps", "40")
    with hosts(tiny.data_dir, whole, *length) as pair:
        assert pair.wait(120) == [0, 0], pair.said_by_all()
    with hosts(tiny.data_dir, stopped, *length) as pair:
        pair.wait_for("\nstep 5/", 0, 120)
        for process in pair.running if to == "all" else [pair.running[to]]:
            process.send_signal(number)
        assert pair.wait(60) == [ExitStatus.RUN_AGAIN] * 2, pair.said_by_all()
    assert steps(stopped)[-1] < 40
    with hosts(tiny.data_dir, stopped, *length) as pair:
        assert pair.wait(120) == [0, 0], pair.said_by_all()
    assert what_is_left(stopped) == what_is_left(whole)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_the_other(tiny, tmp_path, which):
    folder = tmp_path / "run"
    with hosts(tiny.data_dir, folder, "--steps", "100000") as pair:
        pair.wait_for("\nstep 20/", 0, 120)
        pair.running[which].kill()
        start = time.monotonic()
        status = pair.wait(120)
    print(f"\nprocess {which} killed: the other ended in {time.monotonic() - start:.1f} s")
    said = pair.said(1 - which)
    assert status[1 - which] == ExitStatus.HOST_LOST, said
    assert f"process {which}" in said.split("\nstep ")[-1]
    assert "Traceback" not in said
    # The same command resumes.
    last = max(line["step"] for line in read_json_lines(folder / "metrics.jsonl"))
    with hosts(tiny.data_dir, folder, "--steps", str(last + 2)) as pair:
        assert pair.wait(120) == [0, 0], pair.said_by_all()


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("options", [(), ("--hosts.hang-timeout", "20")])
def test_a_stuck_process_ends_both(tiny, tmp_path, which, options):
    """Within two minutes, even with the default timeouts."""
    folder = tmp_path / "run"
    with hosts(tiny.data_dir, folder, *options, "--steps", "1000", stuck=which) as pair:
        pair.wait_for("\nstep 4/", 0, 120)
        start = time.monotonic()
        status = pair.wait(120)
    print(f"\nprocess {which} stuck: both ended in {time.monotonic() - start:.1f} s")
    assert status == [ExitStatus.HOST_LOST] * 2, pair.said_by_all()
    assert "in waits_for_a_disk" in pair.said(which)
    assert "step 5 done; activity: data wait for" in pair.said_by_all()


@pytest.mark.slow
def test_a_suspended_process_ends_the_other(tiny, tmp_path):
    """After SIGSTOP it sends no heartbeats and cannot end itself."""
    with hosts(tiny.data_dir, tmp_path / "run", "--steps", "100000") as pair:
        pair.wait_for("\nstep 4/", 0, 120)
        os.kill(pair.running[1].pid, signal.SIGSTOP)
        start = time.monotonic()
        pair.running[0].wait(120)
        print(f"\nthe other ended in {time.monotonic() - start:.1f} s")
    assert pair.running[0].returncode == ExitStatus.HOST_LOST
    assert "process 1" in pair.said(0).split("\nstep ")[-1]
