# SPDX-License-Identifier: Apache-2.0
"""The study's command, in processes of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import pytest

from experiments.residual_scaling.run import runner
from tests.experiments.tiny_study import lasting


def run_command(folder: Path, data_dir: str) -> list[str]:
    options = f"--plan tiny --workdir {folder} --data-dir {data_dir}"
    return [sys.executable, "-m", "tests.experiments.tiny_study", *options.split()]


def environment(data_dir: str) -> dict[str, str]:
    cache = jax.config.jax_compilation_cache_dir
    return os.environ | {
        "PYTHONUNBUFFERED": "1",
        # As here: where threads are shared otherwise, sums are rounded otherwise.
        "JAX_NUM_CPU_DEVICES": str(jax.local_device_count()),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


@pytest.mark.slow
def test_a_killed_and_interrupted_study_has_the_same_records(whole, tmp_path, data_dir):
    """One process is killed at a random moment, the next one gets Ctrl-C."""
    command, file = run_command(tmp_path, data_dir), tmp_path / "runs.jsonl"
    start = partial(subprocess.Popen, command, env=environment(data_dir), text=True)
    killed = start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (file.exists() and file.read_bytes()):
        assert killed.poll() is None
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.1))
    killed.kill()
    assert killed.wait() == -signal.SIGKILL

    process = start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not process.stdout.readline().startswith("[1/"):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command continues the study" in errors
    assert "Traceback" not in errors

    kept = file.read_text()
    again = subprocess.run(
        command, env=environment(data_dir), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert "runs are already finished" in again.stdout
    assert file.read_text().startswith(kept)
    assert "Verdicts on 1 claim: 1 " in again.stdout
    assert f"Wrote\n  {tmp_path / 'report.html'}" in again.stdout
    assert (tmp_path / "report.html").stat().st_size > 0
    study, expected = whole
    finished = runner.finished_runs(replace(study, folder=tmp_path))
    assert {run: lasting(r) for run, r in finished.items()} == {
        run: lasting(r) for run, r in expected.items()
    }
    assert len(file.read_text().splitlines()) == len(study.runs)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "Minutes of training"),
        (["--plan", "cpv"], 2, "plan must be one of quick, main"),
        (["--plam", "main"], 2, "Unrecognized options: --plam"),
    ],
)
def test_command_line_answers_mistakes_in_a_sentence(arguments, code, expected):
    command = [sys.executable, "-m", "experiments.residual_scaling", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == code
    assert expected in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
