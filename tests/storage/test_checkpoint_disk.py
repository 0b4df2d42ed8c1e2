# SPDX-License-Identifier: Apache-2.0
"""Full disks and killed processes raise errors and leave earlier checkpoints intact."""

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.files import CheckpointError
from tests.storage.states import LIKE, identical, state_of

ROOT = Path(__file__).parents[2]


def python(program: str, *arguments: str, **options: Any) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


# First only small files fit, then the folder is read-only (root acts as another user).
DISK = """
import os, resource, signal, sys, time
from pathlib import Path
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.files import CheckpointError
from tests.storage.states import state_of

folder, step = Path(sys.argv[1]), 4

def fails(use):
    try:
        use()
    except CheckpointError as error:
        print(error)
    else:
        sys.exit("no error")

def in_the_loop():
    for _ in range(600):
        saved.check()
        time.sleep(0.1)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
with Checkpoints(folder, keep=1) as saved:
    saved.save(2, state_of(2))
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    for use in (in_the_loop, saved.wait, lambda: saved.save(step, state_of(step))):
        saved.save(step, state_of(step))
        fails(use)
        assert saved.steps() == [2]
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    fails(lambda: saved.save(step, state_of(step)) or saved.wait())

def closed():
    with Checkpoints(folder, keep=1) as saved:
        saved.save(step, state_of(step))

if os.getuid() == 0:
    os.seteuid(0)
folder.chmod(0o755)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
fails(closed)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_disk_error_is_raised_and_nothing_is_lost(reachable):
    folder = reachable / "checkpoints"
    said, errors = python(DISK, str(folder)).communicate(timeout=120)
    assert errors == ""
    full, refused = "File too large", "Permission denied"
    assert said.splitlines() == [
        f"the checkpoint of step 4 cannot be written to {folder}: {why}; earlier ones are "
        "unchanged."
        for why in (full, full, full, refused, full)
    ]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2]
        assert identical(checkpoints.restore(2, LIKE), state_of(2))
    with Checkpoints(folder, keep=1):
        assert [path.name for path in folder.iterdir()] == ["2"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("OUT_OF_RANGE: Error writing in OCDBT database at local file: File too large", 0),
        ("NOT_FOUND: Error opening driver [tensorstore_spec='{}']", 0),
        ("of another library", 1),
    ],
)
def test_unawaited_errors_of_tensorstore_are_hidden(said, shown, caplog):
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_exception(ValueError(said))
    del future
    gc.collect()
    loop.close()
    told = [r for r in caplog.records if "never retrieved" in r.getMessage()]
    assert len(told) == shown


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_full_and_read_only_file_systems(tmp_path):
    def mount(*arguments: str) -> None:
        subprocess.run([*arguments, str(tmp_path)], check=True)

    state = {"x": np.random.default_rng(0).normal(size=40_000)}
    mount("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        with Checkpoints(tmp_path / "run" / "checkpoints", keep=3) as checkpoints:
            checkpoints.save(1, state)
            checkpoints.wait()
            (tmp_path / "fill").write_bytes(bytes(600_000))
            checkpoints.save(2, state)
            with pytest.raises(CheckpointError, match="No space left on device"):
                checkpoints.wait()
            mount("mount", "-o", "remount,ro")
            checkpoints.save(2, state)
            with pytest.raises(CheckpointError, match="Read-only file system"):
                checkpoints.wait()
            assert checkpoints.restore_newest(state)[0] == 1
        with pytest.raises(CheckpointError, match="Read-only file system"):
            Checkpoints(tmp_path / "new", keep=3)
    finally:
        mount("umount")


def test_the_error_that_ended_the_run_precedes_a_failed_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Checkpoints, "_write", lambda *_: 1 / 0)
    checkpoints = Checkpoints(tmp_path, keep=1)

    def run() -> None:
        with checkpoints:
            checkpoints.save(1, state_of(1))
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        run()
    assert "step 1 cannot be written" in capsys.readouterr().err


# The state is large, so a kill usually interrupts a save.
SAVING = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
from inception_jax.storage.checkpoints import Checkpoints

with Checkpoints(Path(sys.argv[1]), keep=2) as saved:
    for step in count(max(saved.steps(), default=0) + 1):
        saved.save(step, {str(i): np.full(200_000, step * i) for i in range(8)})
        print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_during_saves(tmp_path, kills):
    like = {str(i): jax.ShapeDtypeStruct((200_000,), np.int64) for i in range(8)}
    rng, temporary, last = random.Random(0), 0, 0
    for _ in range(kills):
        process = python(SAVING, str(tmp_path))
        for _ in range(4):  # at least the third save is complete
            told = int(process.stdout.readline())
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        temporary += any(not path.name.isdecimal() for path in tmp_path.iterdir())
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            assert all(path.name.isdecimal() for path in tmp_path.iterdir())
            step, state = checkpoints.restore_newest(like)
        assert step >= told - 1 > last
        assert all((state[str(i)] == step * i).all() for i in range(8))
        last = step
    assert temporary or kills == 1
    assert not (tmp_path.parent / "quarantine").exists()
