# SPDX-License-Identifier: Apache-2.0
"""Training steps compiled ahead of time for an absent TPU slice, with cached results.

Only figures of the compiled program are cached: memory, operations and traffic.
"""

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
from inception_jax.runtime.compile_cache import create_private, user_cache_folder
from inception_jax.storage.run_folder import dataclass_from_json

# Settings of a run that do not affect its compiled step.
IGNORED_SETTINGS = (
    *("data", "train_split", "eval_split", "data_dir", "workdir", "epochs", "steps"),
    *("seed", "eval_every", "patience", "checkpoint_every", "keep_checkpoints"),
    *("log_every", "first_weights", "head", "aspect", "resize"),
    *("on_nonfinite", "on_bad_image", "workers", "wandb", "hosts", "crop_fraction"),
)
# Source files that affect the compiled step or the figures read from it.
SOURCE_FILES = (
    *("config/*", "text", "data/augment", "data/imagenet", "kernels/*", "models/*"),
    *("runtime/*", "training/*", "planning/*"),
)
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")
# The worker must neither search for a TPU nor fail because another process has loaded
# libtpu.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # the caller stores the reply instead
}


@dataclass(frozen=True)
class StageWork:
    """The work of a training step that one stage of the network accounts for."""

    stage: str  # "" for everything else: loss, optimizer, averages, all-reduce
    macs: int  # multiply-accumulates of one image's forward pass
    hbm_bytes: int
    cycles: int


@dataclass(frozen=True)
class CompiledStep:
    """Figures of a training step as compiled for one chip of a slice."""

    chips: int
    seconds: float  # compilation time
    # Bytes: arguments, results, reused (results stored in place of arguments), temporary,
    # code, and peak (without code).
    memory: dict[str, int]
    flops: float
    movement: Movement
    stages: tuple[StageWork, ...]  # in the network's order; they add up to `movement`
    macs: int  # multiply-accumulates of one image's forward pass
    params: int
    statistics: int  # moving averages of batch normalisation

    @property
    def needed(self) -> int:
        """Bytes of HBM that the step occupies."""
        memory = self.memory
        results = memory["results"] - memory["reused"]
        return memory["arguments"] + results + memory["temporary"] + memory["code"]


@dataclass(frozen=True)
class TooLarge:
    """The result for a training step that does not fit in the chip's memory."""

    needed: int  # bytes of HBM; a lower bound if only temporary buffers were counted
    available: int
    seconds: float  # compilation time until the error


def load_or_compile(
    config: RunConfig, topology: str, *, fresh: bool, log: Callable[[str], None]
) -> CompiledStep | TooLarge:
    """Return the cached result for this step and slice, or compile and cache it.

    With `fresh`, a cached result is ignored. `log` is called before and after compiling.

    Raises ValueError for an invalid configuration, ModuleNotFoundError without libtpu, and
    ChildProcessError if the compiler process is killed.
    """
    check_compiler()
    path = user_cache_folder("plan") / f"{cache_key(config, topology)}.json"
    if not fresh and (stored := _read(path)):
        return stored
    log(
        f"Compiling {config.network} for {topology}, {config.batch_size} images per step. "
        "Full-size networks take 5 to 12 minutes on two idle CPU cores, and larger "
        "batches longer."
    )
    request = {"config": asdict(config), "topology": topology}
    reply = run_worker("inception_jax.planning.aot_worker", request)
    result = _from_reply(reply)
    log(f"  compiled in {result.seconds:.0f} s")
    create_private(path.parent)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(reply, indent=1) + "\n")
    draft.replace(path)
    return result


def run_worker(module: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run `python -m module`, which calls `aot_worker.answer_request`; return its reply.

    libtpu serves one process at a time and stays loaded until that process ends, so it is
    never loaded into this one.

    Raises ValueError if the worker rejects the request, ChildProcessError if it is killed
    by a signal, and RuntimeError if it fails otherwise.
    """
    import_path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    process = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(request, default=str) + "\n",
        capture_output=True,
        text=True,
        env=os.environ | WORKER_ENVIRONMENT | {"PYTHONPATH": import_path},
    )
    if process.returncode < 0:
        raise ChildProcessError(
            f"The compiler process was killed by signal {-process.returncode}; it needs up "
            "to 8 GiB of memory."
        )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        raise RuntimeError(
            f"The compiler process ended with exit status {process.returncode}:\n"
            f"{process.stderr}"
        )
    reply = json.loads(lines[-1])
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply


def check_compiler() -> None:
    """Raise ModuleNotFoundError if libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            'libtpu, the compiler for TPUs, is missing: pip install "inception_jax[plan]"'
        )


def cache_key(config: RunConfig, topology: str) -> str:
    """Return a digest of all inputs of a result: settings, versions, source and flags."""
    settings = {k: v for k, v in asdict(config).items() if k not in IGNORED_SETTINGS}
    inputs = {
        "settings": settings,
        "topology": topology,
        "versions": {package: version(package) for package in PACKAGES},
        "source": source_digest(),
        "flags": [os.environ.get(name) for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS")],
    }
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def source_digest() -> str:
    """Return the SHA-256 digest of all files in `SOURCE_FILES`."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for pattern in SOURCE_FILES:
        for path in sorted(package.glob(f"{pattern}.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _read(path: Path) -> CompiledStep | TooLarge | None:
    try:
        return _from_reply(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # missing or incomplete


def _from_reply(reply: dict[str, Any]) -> CompiledStep | TooLarge:
    if "refused" in reply:
        return TooLarge(**reply["refused"])
    return dataclass_from_json(CompiledStep, reply["compiled"])
