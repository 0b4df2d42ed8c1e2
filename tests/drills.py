# SPDX-License-Identifier: Apache-2.0
"""Training processes that tests kill: start them, see where they stopped, compare runs."""

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
from inception_jax.storage.files import read_json_lines
from tests.runs import records
from tests.storage.states import tree_digest

ROOT = Path(__file__).parents[1]
# Dropout is added to the recipe's augmentation and averaged weights. An epoch has 47 steps,
# so every seventh step or so is evaluated.
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
    """A training run that can be started repeatedly as a process."""

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
        """Start the process; its output goes to files beside the run folder."""
        settings = {
            "PYTHONUNBUFFERED": "1",
            # As in this process, because sums over other devices round differently.
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
        """Wait until the process has printed its first step, or has ended."""
        while not self._has_updated and process.poll() is None:
            time.sleep(0.01)

    def wait_for_checkpoint(self, process: subprocess.Popen) -> None:
        """Wait until there is one more complete checkpoint, or the process has ended."""
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
        """What a killed process was doing, according to its files."""
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
    """Return a digest of the complete state in the newest checkpoint."""
    return tree_digest(load_state(folder, jax.devices()).state)


def what_is_left(folder: Path) -> dict[str, object]:
    """Return everything of a complete run that must not depend on interruptions."""
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
    """Send a signal and return the exit status, even if the process had already ended."""
    process.send_signal(number)
    return process.wait(timeout=120)
