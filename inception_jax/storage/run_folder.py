# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: names of its files and folders, and its record."""

import dataclasses
import json
import subprocess
import typing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.storage.files import atomic_output, read_json_lines

RECORD_FILE = "run.json"  # a `RunRecord`
METRICS_FILE = "metrics.jsonl"  # metrics, probes and skipped images
GOODPUT_FILE = "goodput.jsonl"  # time spent in each activity
EVALUATIONS_FILE = "evaluations.jsonl"  # results of `experiments.evaluate`
CHECKPOINTS_FOLDER = "checkpoints"  # training states, see `checkpoints`
QUARANTINE_FOLDER = "quarantine"  # damaged checkpoints
TENSORBOARD_FOLDER = "tensorboard"  # the metrics, for TensorBoard
LOCK_FILE = "lock"  # the process that writes to the folder
HOSTS_FOLDER = "hosts"  # status of each process, in a run of several

PACKAGES = ("inception_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")

# Settings that may change when a run is resumed: those of place, speed, duration and
# reporting.
CHANGEABLE = {
    *("workdir", "data_dir", "workers", "remat", "fast", "epochs", "steps"),
    *("eval_every", "patience", "checkpoint_every", "keep_checkpoints", "log_every"),
    *("on_nonfinite", "probe_every", "probe_images", "hosts", "wandb"),
}


@dataclass(frozen=True)
class Session:
    """The devices and software of a run between one start and its end."""

    started: str  # UTC
    devices: str
    processes: int
    versions: dict[str, str]
    code: str  # commit of the working copy, or the installed version


@dataclass(frozen=True)
class RunRecord:
    """The contents of run.json, with all that is needed to use the weights of the run."""

    config: RunConfig
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]
    num_train: int  # training examples
    num_eval: int
    steps: int  # steps of the complete run
    sessions: tuple[Session, ...]  # the newest last


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that determine results."""
    return {package: version(package) for package in PACKAGES}


def code_version() -> str:
    """Return the commit of the working copy, with + if it was modified.

    Without Git, returns the version of the package.
    """
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.check_output(
            command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return version("inception_jax")
    return commit.strip()


def write_record(workdir: Path, record: RunRecord) -> None:
    """Write run.json atomically."""
    with atomic_output(workdir / RECORD_FILE) as draft:
        draft.write_text(json.dumps(asdict(record), indent=1, default=str) + "\n")


def read_record(workdir: Path) -> RunRecord:
    """Read run.json; raises ValueError if there is none or its format is not supported."""
    path = workdir / RECORD_FILE
    if not path.is_file():
        raise ValueError(f"{workdir} is not a run folder: it has no file {path.name}.")
    try:
        return dataclass_from_json(RunRecord, json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as the record of a run: {error}") from None


def read_evaluations(workdir: Path) -> list[dict[str, Any]]:
    """Return the evaluations recorded during training, the oldest first."""
    lines = read_json_lines(workdir / METRICS_FILE)
    return [line for line in lines if line["kind"] == "eval"]


def config_differences(saved: RunConfig, current: RunConfig) -> list[str]:
    """Describe the settings that differ, except those in `CHANGEABLE`."""
    fixed = [
        {name: x for name, x in asdict(config).items() if name not in CHANGEABLE}
        for config in (saved, current)
    ]
    return setting_differences(*map(flatten_settings, fixed))


def setting_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Describe the settings that differ, such as "seed 0 instead of 3"."""
    return [
        f"{name} {saved.get(name)} instead of {current.get(name)}"
        for name in current | saved
        if saved.get(name) != current.get(name)
    ]


def flatten_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings; names are joined by dots, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def dataclass_from_json(kind: Any, value: Any) -> Any:
    """Convert a JSON value to the annotated type `kind`, such as a dataclass.

    Raises ValueError for unknown fields.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is not a {kind.__name__}")
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        fields = {name: dataclass_from_json(hints[name], x) for name, x in value.items()}
        return kind(**fields)
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        return tuple(dataclass_from_json(item_kind, item) for item in value)
    return Path(value) if kind is Path else value
