# SPDX-License-Identifier: Apache-2.0
"""Training steps compiled for TPUs that are not here, and what was found kept on disk."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inception_jax.config import RunConfig
from inception_jax.planning.hlo import Movement

# Settings of a run that its compiled step does not depend on.
IRRELEVANT = (
    *("data", "train_split", "eval_split", "data_dir", "workdir", "epochs", "steps"),
    *("seed", "eval_every", "patience", "checkpoint_every", "keep_checkpoints"),
    *("log_every", "first_weights", "head", "aspect", "resize"),
    *("on_nonfinite", "on_bad_image", "workers", "wandb", "hosts", "crop_fraction"),
)
# Files that the compiled step, or what is read off it, depends on.
SOURCES = (
    *("config", "text", "data/augment", "kernels/*", "models/*"),
    *("runtime/*", "training/*", "planning/*"),
)
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")
# The process with libtpu: it must neither look for a TPU nor mind another such process.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is kept here is the result
}


@dataclass(frozen=True)
class StageWork:
    """Of a training step, what comes from a stage: see `summary.Row` and `hlo.Part`."""

    stage: str  # "" for the rest: loss, optimizer, averages, all-reduce
    macs: int  # multiply-accumulates, for one image forward
    hbm_bytes: int
    cycles: int


@dataclass(frozen=True)
class Compiled:
    """A training step as one chip runs it, in the compiler's own figures."""

    chips: int
    seconds: float  # that compiling took
    # Bytes: arguments, results, reused (results in the place of arguments), temporary,
    # code, and the peak without the code.
    memory: dict[str, int]
    flops: float
    movement: Movement
    stages: tuple[StageWork, ...]  # in the order of the network, which `movement` sums
    macs: int  # multiply-accumulates of the network, for one image forward
    params: int
    statistics: int  # moving means and variances of batch normalisation

    @property
    def needed(self) -> int:
        """Bytes of HBM."""
        memory = self.memory
        results = memory["results"] - memory["reused"]
        return memory["arguments"] + results + memory["temporary"] + memory["code"]


@dataclass(frozen=True)
class Refused:
    """A training step that the compiler found too large for the chip."""

    needed: int  # bytes of HBM; of temporaries alone, where the compiler stopped at them
    available: int
    seconds: float  # that finding out took


def compiled(
    config: RunConfig, topology: str, *, fresh: bool, say: Callable[[str], None]
) -> Compiled | Refused:
    """The step of a run on a slice: what is kept of it, otherwise compiled in minutes.

    Raises ValueError where the configuration is wrong, ModuleNotFoundError without libtpu,
    ChildProcessError where the compiler's process was killed.
    """
    check_compiler()
    path = cache_folder() / f"{key(config, topology)}.json"
    if not fresh and (kept := _read(path)):
        return kept
    say(
        f"Compiling {config.network} for {topology}, {config.batch_size} images a step. "
        "The full networks take 5 to 12 minutes of two free cores, larger batches longer."
    )
    request = {"config": asdict(config), "topology": topology}
    answer = ask("inception_jax.planning.aot_worker", request)
    found = _outcome(answer)
    say(f"  compiled in {found.seconds:.0f} s")
    _make_folder(path.parent)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(answer, indent=1) + "\n")
    draft.replace(path)
    return found


def check_compiler() -> None:
    """Raise ModuleNotFoundError without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            'libtpu, the compiler for TPUs, is missing: pip install "inception_jax[plan]"'
        )


def cache_folder() -> Path:
    """inception_jax/plan in the user's cache folder; XDG_CACHE_HOME, as the XDG says."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
    return base / "inception_jax" / "plan"


def key(config: RunConfig, topology: str) -> str:
    """A name for all that decides what is compiled: settings, versions, source, flags."""
    settings = {k: v for k, v in asdict(config).items() if k not in IRRELEVANT}
    decisive = {
        "settings": settings,
        "topology": topology,
        "versions": {package: version(package) for package in PACKAGES},
        "source": source_digest(),
        "flags": [os.environ.get(name) for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS")],
    }
    text = json.dumps(decisive, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest() -> str:
    """Of all files in `SOURCES`."""
    digest, folder = hashlib.sha256(), Path(__file__).parents[1]
    for name in SOURCES:
        for path in sorted(folder.glob(f"{name}.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)


def _read(path: Path) -> Compiled | Refused | None:
    try:
        return _outcome(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none there, or not whole: it is made anew


def _outcome(answer: dict[str, Any]) -> Compiled | Refused:
    if "refused" in answer:
        return Refused(**answer["refused"])
    figures = answer["compiled"]
    stages = tuple(StageWork(**stage) for stage in figures["stages"])
    return Compiled(
        **{**figures, "movement": Movement(**figures["movement"]), "stages": stages}
    )


def ask(worker: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a module that does `aot_worker.serve`; it ends with this call whatever
    happens.

    Raises ValueError with what is wrong with the request, ChildProcessError where the
    process was killed.
    """
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    process = subprocess.run(
        [sys.executable, "-P", "-m", worker],
        input=json.dumps(request, default=str) + "\n",
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
    )
    if process.returncode < 0:
        raise ChildProcessError(
            f"the compiler's process was ended by signal {-process.returncode}; it needs "
            "up to 8 GiB of memory."
        )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        raise RuntimeError(
            f"the compiler's process ended with {process.returncode}:\n{process.stderr}"
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
