# SPDX-License-Identifier: Apache-2.0
"""Launchers: the options that processes get, and how they end."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.launch import local

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
STAND_IN = "tests.experiments.launched"


@pytest.fixture(autouse=True)
def handlers():
    """Restore the signal handlers that the launcher replaces."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def written(folder: Path) -> list[str]:
    return [(folder / f"{index}.txt").read_text() for index in range(2)]


def test_processes_get_their_index(tmp_path):
    arguments = ["--processes", "2", "--devices", "3", "well", str(tmp_path)]
    assert local.main(arguments, STAND_IN) == 0
    first, second = (line.split() for line in written(tmp_path))
    assert first[0].startswith("--hosts.coordinator=127.0.0.1:")
    assert second[0] == first[0]
    assert first[1:] == ["--hosts.count=2", "--hosts.index=0", "3", "cpu"]
    assert second[1:] == ["--hosts.count=2", "--hosts.index=1", "3", "cpu"]


@pytest.mark.parametrize(("way", "status"), [("badly", 3), ("killed", 76)])
def test_a_failed_process_ends_the_others(tmp_path, monkeypatch, capsys, way, status):
    monkeypatch.setattr(local, "NOTICE_WITHIN", 0.3)
    start = time.monotonic()
    assert local.main([way, str(tmp_path)], STAND_IN) == status
    assert time.monotonic() - start < 10
    assert (
        f"Process 1 ended with status {3 if way == 'badly' else -9}."
        in capsys.readouterr().err
    )


def test_ctrl_c_reaches_every_process_once(tmp_path):
    program = (
        f"from experiments.launch import local as x; exit(x.main(module={STAND_IN!r}))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, "until stopped", str(tmp_path)],
        cwd=ROOT,
        start_new_session=True,
    )
    files = [tmp_path / f"{index}.txt" for index in range(2)]
    end = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does
    assert launcher.wait(60) == 75
    assert written(tmp_path) == ["heard 1, alone True"] * 2


@pytest.mark.parametrize("arguments", [[], ["--processes", "0", "digits"]])
def test_bad_options_of_the_launcher(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        local.main(arguments)
    assert end.value.code == 2
    assert "expected a RECIPE and at least one process" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_have_no_syntax_errors(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that adds stand-ins for missing commands to PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (2, 0, False),
        (75, 0, True),
        (76, 99, True),
        (137, 3, True),
        (75, 100, False),
    ],
)
def test_slurm_requeues_a_run_that_can_resume(
    tmp_path, monkeypatch, commands, status, restarts, requeued
):
    commands("srun", f'printf "%s\\n" "$@" > {tmp_path}/srun; exit {status}')
    commands("scontrol", f'echo "$@" > {tmp_path}/scontrol')
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    arguments = ["digits", "--workdir", "/a b"]
    ended = subprocess.run([LAUNCH / "slurm.sh", *arguments], check=False)
    given = (tmp_path / "srun").read_text().splitlines()
    assert given[-5:] == [*arguments, "--hosts.coordinator", "auto"]
    assert (tmp_path / "scontrol").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol").read_text() == "requeue 17\n"
    assert ended.returncode == (0 if requeued else status)


def test_the_command_that_xpk_gets(tmp_path, monkeypatch, commands):
    commands("xpk", f'printf "%s\\n" "$@" > {tmp_path}/xpk')
    for name in ("CLUSTER", "TPU", "IMAGE", "NAME"):
        monkeypatch.setenv(name, name.lower())
    subprocess.run([LAUNCH / "xpk.sh", "digits", "--workdir", "/a b"], check=True)
    last = (tmp_path / "xpk").read_text().splitlines()[-1]
    command = shlex.split(last.removeprefix("--command="))
    assert command[:5] == ["exec", "python", "-m", "experiments.run", "digits"]
    assert command[5:] == ["--workdir", "/a b", "--hosts.coordinator", "auto"]


def test_all_vms_of_a_slice_run_and_stop_together(tmp_path, monkeypatch, commands):
    """Scripts stand in for gcloud and for Python; the home of a VM is a folder."""
    for vm in ("one", "two"):
        python = tmp_path / vm / "inception_jax" / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        script = (
            'trap "exit 75" TERM; printf "%s\\n" "$@" > told; while :; do sleep .05; done'
        )
        python.write_text(f"#!/bin/bash\n{script}\n")
        python.chmod(0o755)
    commands(
        "gcloud",
        f'if [ "$3" = managed ]; then echo https://x/one https://x/two; exit; fi\n'
        f'cd {tmp_path}/$3 && exec bash -c "${{5#--command=}}"',
    )
    monkeypatch.setenv("GROUP", "slice")
    monkeypatch.setenv("ZONE", "zone")
    script = [LAUNCH / "tpu_vms.sh", "digits", "--workdir", "/a b"]
    launcher = subprocess.Popen(script, start_new_session=True)
    told = [tmp_path / vm / "inception_jax" / "told" for vm in ("one", "two")]
    end = time.monotonic() + 30
    while not all(file.exists() and file.read_text().endswith("auto\n") for file in told):
        assert time.monotonic() < end
        time.sleep(0.05)
    given = told[1].read_text().splitlines()
    assert given[2:] == ["digits", "--workdir", "/a b", "--hosts.coordinator", "auto"]
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(30) == 75


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_with_one(tmp_path):
    """Two processes of two devices, then one of one, in the same run folder."""
    options = shlex.split(
        f"digits --network inception_resnet_small --image-size 8 --workdir {tmp_path}/run "
        "--batch-size 32 --log-every 2 --eval-every 100 --steps"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}

    def run(module: str, steps: str) -> str:
        command = [sys.executable, "-m", module, *options, steps]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    both = run("experiments.launch.local", "4")
    assert "process 1: " in both
    assert both.count("step 4/4") == 1  # process 0 speaks for both
    assert "step 6/6" in run("experiments.run", "6")
