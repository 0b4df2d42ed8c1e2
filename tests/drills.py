# SPDX-License-Identifier: Apache-2.0
"""Training processes to kill: how they are started, where they were hit, what is left."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from experiments import run
from inception_jax.config import RunConfig
from inception_jax.inference.evaluate import load_state
from inception_jax.storage.digests import tree_digest
from inception_jax.storage.jsonl import read_json_lines
from tests.runs import records

ROOT = Path(__file__).parents[1]
# With dropout; augmentation and averaged weights are the recipe's. An evaluation every
# seven updates or so; an epoch has 47.
EVAL_EVERY = 0.14
OPTIONS = (
    *("digits", "--image-size", "8", "--batch-size", "32", "--dropout-rate", "0.2"),
    *("--eval-every", str(EVAL_EVERY), "--log-every", "1"),
)
COMMAND = (sys.executable, "-m", "experiments.run")
# The same command with one more network, which compiles in a moment.
COMMAND_WITH_TINY = (
    sys.executable,
    "-c",
    "from experiments.run import main\n"
    "from inception_jax.models.zoo import SPECS\n"
    "from tests.models.tiny import one_block\n"
    "SPECS['tiny'] = one_block()\n"
    "raise SystemExit(main())",
)


@dataclass(frozen=True)
class Drill:
    """A training run that can be started again and again as a process."""

    folder: Path
    options: Sequence[str]
    command: Sequence[str] = COMMAND

    @property
    def config(self) -> RunConfig:
        return run.parse(self._arguments)

    @property
    def _arguments(self) -> list[str]:
        return [*OPTIONS, *self.options, "--workdir", str(self.folder)]

    def start(self, **environment: str) -> subprocess.Popen:
        """What it says goes to files beside the run's folder."""
        settings = {
            "PYTHONUNBUFFERED": "1",
            # As here: with other threads, sums are rounded otherwise.
            "JAX_NUM_CPU_DEVICES": str(jax.local_device_count()),
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }
        with self.said.open("w") as said, self.errors.open("w") as errors:
            return subprocess.Popen(
                [*self.command, *self._arguments],
                cwd=ROOT,
                env=os.environ | settings | environment,
                stdout=said,
                stderr=errors,
            )

    @property
    def said(self) -> Path:
        return self.folder.with_suffix(".out")

    @property
    def errors(self) -> Path:
        return self.folder.with_suffix(".err")

    def wait_for_updates(self, process: subprocess.Popen) -> None:
        """Until the process has told of its first update; returns if it ends."""
        while not self._has_updated and process.poll() is None:
            time.sleep(0.01)

    def wait_for_checkpoint(self, process: subprocess.Popen) -> None:
        """Until there is one more complete checkpoint; returns if the process ends."""
        newest = self._newest
        while self._newest == newest and process.poll() is None:
            time.sleep(0.01)

    @property
    def _newest(self) -> int:
        folder = self.folder / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return max((int(name) for name in names if name.isdecimal()), default=0)

    @property
    def _has_updated(self) -> bool:
        return "\nstep " in self.said.read_text()

    @property
    def moment(self) -> str:
        """Where a process was that was killed, by what it left in the folder."""
        checkpoints = self.folder / "checkpoints"
        names = [p.name for p in checkpoints.iterdir()] if checkpoints.exists() else []
        if any("tmp" in name for name in names):
            return "while a checkpoint was written"
        if not self._has_updated:
            return "before the first update of the process"
        last = read_json_lines(self.folder / "metrics.jsonl")[-1]
        if last["kind"] == "train" and _passed(last["step"], EVAL_EVERY * 1500 / 32):
            return "in an evaluation"
        return "between updates" if names else "before the first checkpoint"


def _passed(step: int, interval: float) -> bool:
    return step // interval > (step - 1) // interval


def state_hash(folder: Path) -> str:
    """One for all that the newest checkpoint holds, bit by bit."""
    return tree_digest(load_state(folder, jax.devices()).state)


def what_is_left(folder: Path) -> dict[str, object]:
    """Of a complete run, all that must not depend on how often it was killed."""
    temporary = re.compile(r"tmp|temp|draft|incomplete|partial|quarantine", re.IGNORECASE)
    return {
        "state": state_hash(folder),
        "train": records(folder, "train"),
        "eval": records(folder, "eval"),
        "files": sorted(path.name for path in folder.iterdir()),
        "checkpoints": len(list((folder / "checkpoints").iterdir())),
        "temporary": [str(p) for p in folder.rglob("*") if temporary.search(p.name)],
    }


def end(process: subprocess.Popen, number: signal.Signals) -> int:
    """Send a signal; the exit status, which is that of a run that was over before."""
    process.send_signal(number)
    return process.wait(timeout=120)
