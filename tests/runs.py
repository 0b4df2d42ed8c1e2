# SPDX-License-Identifier: Apache-2.0
"""Training runs that take a second: a tiny network under a name, on the digits."""

import time
from pathlib import Path
from typing import Any

from inception_jax.config import AugmentConfig, OptimizerConfig, RunConfig
from inception_jax.runtime.compiler_options import compiler_options
from inception_jax.storage.jsonl import read_json_lines
from inception_jax.training.fit import fit
from inception_jax.training.from_config import check_input_shape
from inception_jax.training.loop import compiled_steps
from inception_jax.training.probe import probe_program
from inception_jax.training.step import jitted_init

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
    """Lines of a kind of a run's metrics, without what depends on the clock."""
    lines = read_json_lines(workdir / "metrics.jsonl")
    return [
        {key: x for key, x in line.items() if key != "images_per_second"}
        for line in lines
        if line["kind"] == kind
    ]


def timed(config: RunConfig) -> tuple[bool, float]:
    """What `fit` returns, and the seconds it took."""
    start = time.perf_counter()
    done = fit(config, start)
    return done, time.perf_counter() - start


def compiled_by(compilations: list[float], config: RunConfig) -> int:
    """How many programs the run `config` compiles, as if it were the first of its process;
    see the fixture `compilations`."""
    for kept in (check_input_shape, jitted_init, compiled_steps, probe_program):
        kept.cache_clear()
    compiler_options("cpu")  # it compiles a program to find out whether XLA knows them
    compilations.clear()
    fit(config)
    return len(compilations)
