# SPDX-License-Identifier: Apache-2.0
"""Training runs of the tiny network on the digits, which take a second."""

from pathlib import Path
from typing import Any

from inception_jax.config import AugmentConfig, OptimizerConfig, RunConfig
from inception_jax.runtime.devices import compiler_options
from inception_jax.storage.files import read_json_lines
from inception_jax.training.fit import fit
from inception_jax.training.from_config import check_input_shape
from inception_jax.training.loop import compiled_steps
from inception_jax.training.probe import probe_program
from inception_jax.training.state import jitted_init

CONFIG = RunConfig(
    network="tiny",
    data="digits",
    batch_size=32,
    steps=6,
    eval_every=100.0,
    checkpoint_every=100.0,
    log_every=2,
    augment=AugmentConfig(area=(0.7, 1.0), flip=False, color=False),
    optimizer=OptimizerConfig(learning_rate=0.01, ema_decay=0.5),
)


def records(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind of metrics.jsonl, without the speed."""
    lines = read_json_lines(workdir / "metrics.jsonl")
    return [
        {key: x for key, x in line.items() if key != "images_per_second"}
        for line in lines
        if line["kind"] == kind
    ]


def compiled_by(compilations: list[float], config: RunConfig) -> int:
    """Return the number of programs that a run compiles if it is the first of its process.

    `compilations` is the fixture of that name.
    """
    for cached in (check_input_shape, jitted_init, compiled_steps, probe_program):
        cached.cache_clear()
    compiler_options("cpu")  # compiles a program to test the options; not counted
    compilations.clear()
    fit(config)
    return len(compilations)
