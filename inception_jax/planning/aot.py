# SPDX-License-Identifier: Apache-2.0
"""Training steps compiled for TPUs that are not here, and what was found kept on disk."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inception_jax.config import RunConfig
from inception_jax.planning.hlo import Movement
from inception_jax.planning.worker import run_worker

# Settings of a run that its compiled step does not depend on.
IGNORED_SETTINGS = (
    *("data", "train_split", "eval_split", "data_dir", "workdir", "epochs", "steps"),
    *("seed", "eval_every", "patience", "checkpoint_every", "keep_checkpoints"),
    *("log_every", "first_weights", "head", "aspect", "resize"),
    *("on_nonfinite", "on_bad_image", "workers", "wandb", "hosts", "crop_fraction"),
)
# Files that the compiled step, or what is read off it, depends on.
SOURCE_FILES = (
    *("config", "text", "data/augment", "kernels/*", "models/*"),
    *("runtime/*", "training/*", "planning/*"),
)
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")


@dataclass(frozen=True)
class StageWork:
    """Of a training step, what comes from a stage: see `summary.Row` and `hlo.Part`."""

    stage: str  # "" for the rest: loss, optimizer, averages, all-reduce
    macs: int  # multiply-accumulates, for one image forward
    hbm_bytes: int
    cycles: int


@dataclass(frozen=True)
class CompiledStep:
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
class TooLarge:
    """A training step that the compiler found too large for the chip."""

    needed: int  # bytes of HBM; of temporaries alone, where the compiler stopped at them
    available: int
    seconds: float  # that finding out took


def load_or_compile(
    config: RunConfig, topology: str, *, fresh: bool, log: Callable[[str], None]
) -> CompiledStep | TooLarge:
    """The step of a run on a slice: what is kept of it, otherwise compiled in minutes.

    Raises ValueError where the configuration is wrong, ModuleNotFoundError without libtpu,
    ChildProcessError where the compiler's process was killed.
    """
    check_compiler()
    path = cache_folder() / f"{cache_key(config, topology)}.json"
    if not fresh and (kept := _read(path)):
        return kept
    log(
        f"Compiling {config.network} for {topology}, {config.batch_size} images a step. "
        "The full networks take 5 to 12 minutes of two free cores, larger batches longer."
    )
    request = {"config": asdict(config), "topology": topology}
    answer = run_worker("inception_jax.planning.aot_worker", request)
    found = _outcome(answer)
    log(f"  compiled in {found.seconds:.0f} s")
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


def cache_key(config: RunConfig, topology: str) -> str:
    """A name for all that decides what is compiled: settings, versions, source, flags."""
    settings = {k: v for k, v in asdict(config).items() if k not in IGNORED_SETTINGS}
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
    """Of all files in `SOURCE_FILES`."""
    digest, folder = hashlib.sha256(), Path(__file__).parents[1]
    for name in SOURCE_FILES:
        for path in sorted(folder.glob(f"{name}.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)


def _read(path: Path) -> CompiledStep | TooLarge | None:
    try:
        return _outcome(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none there, or not whole: it is made anew


def _outcome(answer: dict[str, Any]) -> CompiledStep | TooLarge:
    if "refused" in answer:
        return TooLarge(**answer["refused"])
    figures = answer["compiled"]
    stages = tuple(StageWork(**stage) for stage in figures["stages"])
    return CompiledStep(
        **{**figures, "movement": Movement(**figures["movement"]), "stages": stages}
    )
