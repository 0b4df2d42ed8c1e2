# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: several devices, no silent broadcasting, checked shapes."""

import os
from pathlib import Path

# Before jax starts: four CPU devices stand in for a pod's, and no accelerator is used.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"

import jax
import jaxtyping
import pytest

# Every jaxtyping annotation of the package is checked while the tests run.
jaxtyping.install_import_hook("inception_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
# One cache for all tests and all runs of them; the folder is the user's own and ignored
# by git.
CACHE = Path(__file__).parents[1] / ".cache" / "xla"
CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="also run full-size networks (minutes)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: add --slow to run it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
