# SPDX-License-Identifier: Apache-2.0
"""Only one process can hold the lock of a run, and a dead one does not keep it."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from inception_jax.storage import lock
from inception_jax.storage.lock import RunLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from inception_jax.storage.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_INTERVAL", 0.05)
    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 0.5)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match="is in use by") as error, RunLock(path):
        pass
    return str(error.value)


def test_a_second_process_learns_who_holds_the_lock(tmp_path):
    path = tmp_path / "run" / "lock"
    with RunLock(path):
        for _ in range(2):  # a refusal does not release the lock
            said = refusal(path)
        holder = f"process {os.getpid()} on {socket.gethostname()} since 20"
        assert said.startswith(f"{tmp_path / 'run'} is in use by {holder}")
        with RunLock(tmp_path / "other"):
            pass


def test_a_released_lock_can_be_taken_again(tmp_path, capsys):
    path = tmp_path / "lock"
    for _ in range(2):
        with RunLock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert path.read_text() == ""
    with pytest.raises(KeyError), RunLock(path):
        raise KeyError
    with RunLock(path):
        pass
    assert capsys.readouterr().err == ""


def test_a_killed_process_releases_the_lock(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 600)  # not needed on the same machine
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        assert f"process {process.pid} on" in refusal(path)
        process.send_signal(signal.SIGKILL)
    with RunLock(path):
        assert "is in use by" in refusal(path)
    said = capsys.readouterr().err
    assert f"taken over from process {process.pid} on" in said
    assert said.endswith("which is no longer running.\n")


OTHERS = [{"host": "another"}, {"boot": "another machine of the same name"}]


@pytest.mark.parametrize("other", OTHERS)
def test_a_lock_of_another_host_expires_without_heartbeats(tmp_path, capsys, other):
    path = tmp_path / "lock"
    holder = replace(lock._this_process(), pid=1, **other)
    path.write_text(json.dumps(asdict(holder)))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    said = refusal(path)
    assert f"process 1 on {holder.host} since" in said
    ended.set()
    beating.join()
    with RunLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert f"taken over from process 1 on {holder.host}" in capsys.readouterr().err


def test_without_kernel_locks_heartbeats_decide(tmp_path, capsys, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    path = tmp_path / "lock"
    with RunLock(path):
        assert f"process {os.getpid()} on" in refusal(path)
        gone = path.read_text()
    path.write_text(gone)
    start = time.monotonic()
    with RunLock(path):
        assert time.monotonic() - start >= 0.5
    assert "taken over from" in capsys.readouterr().err


def test_an_incomplete_lock_file_has_no_holder(tmp_path):
    for words in ('{"pid": 1', '{"pid": 1}', "[]", "3"):
        (tmp_path / "lock").write_text(words)
        with RunLock(tmp_path / "lock"):
            pass
    with RunLock(tmp_path / "lock"):
        (tmp_path / "lock").write_text("")
        assert "another process" in refusal(tmp_path / "lock")
