# SPDX-License-Identifier: Apache-2.0
"""What a training run leaves in its folder, and reading it back.

run.json        configuration, classes, preprocessing; of each session devices and versions
lock            who is writing into the folder
hosts/          where each process of several stands, while they run
quarantine/     checkpoints that were found damaged
metrics.jsonl   sums and counts: the record that every table and figure is made from
goodput.jsonl   where the time went
checkpoints/    states
tensorboard/    the metrics once more, to look at
"""

import dataclasses
import json
import subprocess
import typing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.storage.jsonl import read_json_lines

PACKAGES = ("inception_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


@dataclass(frozen=True)
class Session:
    """What worked at a run, from one start to its end."""

    started: str  # UTC
    devices: str
    processes: int
    versions: dict[str, str]
    code: str  # commit of the working copy, or the version that was installed


@dataclass(frozen=True)
class RunRecord:
    """What a run is: enough to build its network and to use its weights."""

    config: RunConfig
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]
    num_train: int  # training examples
    num_eval: int
    steps: int  # updates of the whole run
    sessions: tuple[Session, ...]  # the newest last


def record_path(workdir: Path) -> Path:
    """Where a run's `RunRecord` is."""
    return workdir / "run.json"


def metrics_path(workdir: Path) -> Path:
    """Where the lines of training, evaluation and skipped images are."""
    return workdir / "metrics.jsonl"


def goodput_path(workdir: Path) -> Path:
    """Where the accounts of time are."""
    return workdir / "goodput.jsonl"


def evaluations_path(workdir: Path) -> Path:
    """Where `experiments.evaluate` appends its results."""
    return workdir / "evaluations.jsonl"


def checkpoints_path(workdir: Path) -> Path:
    """Where the states are, a folder for each step."""
    return workdir / "checkpoints"


def lock_path(workdir: Path) -> Path:
    """Where the process that writes into the folder is named."""
    return workdir / "lock"


def hosts_path(workdir: Path) -> Path:
    """Where the processes of a run on several hosts say where they stand."""
    return workdir / "hosts"


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {package: version(package) for package in PACKAGES}


def code_version() -> str:
    """Commit of the working copy this file is in, with + if it was changed since."""
    folder = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        git = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return version("inception_jax")
    return git.stdout.strip()


def write_record(workdir: Path, record: RunRecord) -> None:
    """Write run.json, whole or not at all."""
    path = record_path(workdir)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(record), indent=1, default=str) + "\n")
    draft.replace(path)


def read_record(workdir: Path) -> RunRecord:
    """The record of the run in `workdir`.

    Raises ValueError if there is none, or if it is not one of this version.
    """
    path = record_path(workdir)
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path.name} in it.")
    try:
        return from_json(RunRecord, json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as the record of a run: {error}") from None


def evaluations(workdir: Path) -> list[dict[str, Any]]:
    """The evaluations on record in a run's folder, in their order."""
    lines = read_json_lines(metrics_path(workdir))
    return [line for line in lines if line["kind"] == "eval"]


def differences(there: RunConfig, here: RunConfig) -> list[str]:
    """What decides the outcome of a run and is not the same in two configurations."""
    # Where and how fast a run works, how long it lasts and what it reports.
    free = {
        *("workdir", "data_dir", "workers", "remat", "epochs", "steps"),
        *("eval_every", "patience", "checkpoint_every", "keep_checkpoints", "log_every"),
        *("on_nonfinite", "probe_every", "probe_images", "hosts", "wandb"),
    }
    decisive = [
        flat({key: x for key, x in asdict(config).items() if key not in free})
        for config in (there, here)
    ]
    return told_apart(*decisive)


def told_apart(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Settings that are not the same, in words."""
    return [
        f"{key} {there.get(key)} there, {here.get(key)} here"
        for key in here | there
        if there.get(key) != here.get(key)
    ]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of settings, under names with dots as on the command line."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def from_json(kind: Any, value: Any) -> Any:
    """`value`, as JSON gives it, as the annotated type `kind` (of these dataclasses)."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is no {kind.__name__}")
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        return kind(**{key: from_json(hints[key], item) for key, item in value.items()})
    if typing.get_origin(kind) is tuple:
        of_what = typing.get_args(kind)[0]
        return tuple(from_json(of_what, item) for item in value)
    return Path(value) if kind is Path else value
