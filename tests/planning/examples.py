# SPDX-License-Identifier: Apache-2.0
"""A run and a compiled step with round figures, for the tests of plans."""

import importlib.util

import pytest

from inception_jax.config import RunConfig
from inception_jax.planning.aot import CompiledStep, StageWork
from inception_jax.planning.hlo import Movement
from inception_jax.planning.roofline import GIB

CONFIG = RunConfig(batch_size=640, dtype="bfloat16")
MOVEMENT = Movement(
    {"all-reduce": 3}, {"all-reduce": 170 * 10**6}, 0, 16 * 10**9, 2 * 10**10, 10**8
)
STAGES = (
    StageWork("Conv2d_1a_3x3", 254_000_000, 4 * 10**9, 3 * 10**7),
    StageWork("Mixed_5b .. Mixed_5e", 12 * 10**9, 11 * 10**9, 6 * 10**7),
    StageWork("", 0, 10**9, 10**7),
)

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed: pip install "inception_jax[plan]"',
)


def compiled_step(needed: int = 4 * GIB) -> CompiledStep:
    """Return a step for 16 chips: 0.5 GiB of state, and temporary buffers for the rest."""
    memory = {"arguments": GIB // 2, "results": GIB // 2, "reused": GIB // 2, "code": 0}
    memory |= {"temporary": needed - GIB // 2, "peak": needed}
    return CompiledStep(16, 100.0, memory, 2.9e12, MOVEMENT, STAGES, 12_254_000_000, 42, 7)
