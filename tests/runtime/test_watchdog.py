# SPDX-License-Identifier: Apache-2.0
"""A run without progress ends, with its stacks and the status of every process."""

import json
import subprocess
import sys
import time

import pytest

from inception_jax.config import HostsConfig
from inception_jax.runtime import watchdog
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.stopping import ExitStatus
from inception_jax.runtime.watchdog import Watchdog

HANGS = """
import sys, time
from pathlib import Path
from inception_jax.runtime import watchdog
from inception_jax.config import HostsConfig
from inception_jax.runtime.goodput import Goodput

watchdog.CHECK_INTERVAL = 0.1
index, watchdog.PROCESS_0_DELAY = int(sys.argv[2]), 1.5

def wait_for_ever():
    time.sleep(60)

goodput = Goodput()
config = HostsConfig(hang_timeout=0.5, start_timeout=30.0)
with watchdog.Watchdog(goodput, config, Path(sys.argv[1]), index, 2) as dog:
    with goodput.spent_on("compile"):
        time.sleep(1.5)  # may take longer than hang_timeout
    dog.step = 7
    with goodput.spent_on("data_wait"):
        wait_for_ever()
"""


def test_a_hang_ends_the_process(tmp_path):
    other = {"host": "a-host", "pid": 12, "time": time.time() - 3, "stands": "in step 8"}
    (tmp_path / "0.json").write_text(json.dumps(other))
    command = [sys.executable, "-c", HANGS, str(tmp_path), "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == ExitStatus.HOST_LOST
    assert "process 1 of 2" in result.stderr
    assert "step 7 done; activity: data wait for " in result.stderr
    assert "process 0 (a-host, pid 12): in step 8 (" in result.stderr
    assert "in wait_for_ever" in result.stderr
    stands = json.loads((tmp_path / "1.json").read_text())["stands"]
    assert stands.startswith("hung: step 7")


def test_process_0_exits_last(tmp_path):
    """JAX ends the others when process 0 exits, and they must print their stacks first."""
    command = [sys.executable, "-c", HANGS, str(tmp_path), "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stderr if "No progress: process 0" in line)
        found = time.monotonic()
        process.communicate(timeout=30)
    assert "of 2" in said
    assert process.returncode == ExitStatus.HOST_LOST
    assert time.monotonic() - found > 1.4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_timeouts(tmp_path, clock, monkeypatch):
    """A machine whose steps take minutes is slow, not stuck."""
    ended = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, kind, s: ended.append((kind, s)))
    goodput = Goodput()
    config = HostsConfig(hang_timeout=90.0, start_timeout=1000.0)
    dog = Watchdog(goodput, config, tmp_path, 0, 1)

    def step(seconds: float) -> None:
        with goodput.spent_on("step"):
            for _ in range(10):
                clock[0] += seconds / 10
                dog._check()
        dog._check()

    def timeout(kind: str) -> float:
        with goodput.spent_on(kind):
            return dog.timeout()

    assert timeout("step") == 1000.0  # before the first step
    dog.step = 1
    assert timeout("step") == 90.0
    step(50.0)
    assert timeout("step") == 5 * 50.0
    with goodput.spent_on("compile"):
        assert dog.timeout() == 1000.0
        clock[0] += 900.0
        dog._check()
    dog._check()
    assert timeout("data_wait") == 5 * 50.0
    step(240.0)
    assert not ended
    assert timeout("eval") == 5 * 240.0
    step(1300.0)
    assert ended == [("step", 1300.0)]
    assert not any(tmp_path.iterdir())  # a single process writes no status


def test_status_files(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(watchdog, "WRITE_INTERVAL", 0.0)
    goodput, folder = Goodput(), tmp_path / "hosts"
    dog, other = (Watchdog(goodput, HostsConfig(), folder, i, 2) for i in (0, 1))

    def run() -> None:
        with dog:
            assert "starting" in other.peers()
            dog.step = 3
            with goodput.spent_on("eval"):
                time.sleep(0.1)
            assert "step 3 done; activity: eval for 0 s" in other.peers()
            assert "process 1: no status file in" in dog.peers()
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        run()
    assert "ended: the disk is full" in other.peers()
    with Watchdog(goodput, HostsConfig(), folder, 0, 2):
        pass
    assert not list(folder.iterdir())
