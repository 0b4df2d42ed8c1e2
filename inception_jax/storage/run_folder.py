# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run and the files in it.

run.json        configuration, classes, preprocessing; devices and versions of each session
checkpoints/    training states, see `checkpoints`
quarantine/     damaged checkpoints
metrics.jsonl   sums and counts, from which all tables and figures are made
goodput.jsonl   where the time went
tensorboard/    the metrics again, for TensorBoard
lock            the process that writes to the folder
hosts/          status of each process, while a run of several processes is running
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

# Settings that may change when a run is resumed: where and how fast it works, how long it
# lasts and what it reports.
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
    """The contents of run.json: enough to build the network and to use its weights."""

    config: RunConfig
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]
    num_train: int  # training examples
    num_eval: int
    steps: int  # steps of the complete run
    sessions: tuple[Session, ...]  # the newest last


def record_path(workdir: Path) -> Path:
    """Return the path of the `RunRecord`."""
    return workdir / "run.json"


def metrics_path(workdir: Path) -> Path:
    """Return the path of the records of training, evaluation and skipped images."""
    return workdir / "metrics.jsonl"


def goodput_path(workdir: Path) -> Path:
    """Return the path of the records of `Goodput`."""
    return workdir / "goodput.jsonl"


def evaluations_path(workdir: Path) -> Path:
    """Return the path to which `experiments.evaluate` appends its results."""
    return workdir / "evaluations.jsonl"


def checkpoints_path(workdir: Path) -> Path:
    """Return the path of the checkpoints, which has a folder for each step."""
    return workdir / "checkpoints"


def lock_path(workdir: Path) -> Path:
    """Return the path of the file that names the process that writes to the folder."""
    return workdir / "lock"


def hosts_path(workdir: Path) -> Path:
    """Return the path of the status files of a run's processes."""
    return workdir / "hosts"


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that determine results."""
    return {package: version(package) for package in PACKAGES}


def code_version() -> str:
    """Return the commit of the working copy, with + if it was modified.

    Without Git, returns the version of the package.
    """
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
    """Write run.json atomically."""
    path = record_path(workdir)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(record), indent=1, default=str) + "\n")
    draft.replace(path)


def read_record(workdir: Path) -> RunRecord:
    """Read run.json; raises ValueError if there is none or its format is not supported."""
    path = record_path(workdir)
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: it has no file {path.name}.")
    try:
        return dataclass_from_json(RunRecord, json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as the record of a run: {error}") from None


def read_evaluations(workdir: Path) -> list[dict[str, Any]]:
    """Return the evaluations recorded during training, the oldest first."""
    lines = read_json_lines(metrics_path(workdir))
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
    """Convert a JSON value to the annotated type `kind`, such as one of these dataclasses.

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
