# SPDX-License-Identifier: Apache-2.0
"""What programs are compiled with: convolutions on a CPU are XLA's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import ParallelConfig
from inception_jax.runtime import compiler_options as module
from inception_jax.runtime.compiler_options import compiler_options
from inception_jax.runtime.parallel import ShardedFunction, data_parallel

IMAGES = {"image": np.ones((2, 17, 17, 32), np.float32)}
KERNEL = np.ones((3, 3, 32, 32), np.float32)
OPTION = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture(autouse=True)
def nothing_kept():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def convolved(kernel: Any, batch: Any, _: Any = None, **__: object) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    image = batch["image"].reshape(-1, 17, 17, 32)
    out = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=numbers
    )
    return jnp.sum(out)


def library_calls(jitted: Any) -> int:
    """Fusions that XLA hands to YNNPACK."""
    # By way of `trace`: what jit makes of a pmap has the `lower` of the pmap inside.
    text = jitted.trace(KERNEL, IMAGES, None).lower().compile().as_text()
    assert "convolution(" in text
    return text.count("__ynn_fusion")


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_steps(wrapper):
    def step(*arguments: Any, axis_name: str) -> jax.Array:
        return jax.lax.pmean(convolved(*arguments), axis_name)

    assert library_calls(jax.jit(convolved)) > 0  # so there is something to leave out
    config, devices = ParallelConfig(wrapper), jax.devices()[:2]
    parallel = data_parallel(step, config, devices, donate_state=False)
    assert library_calls(parallel._function) == 0


def test_inference():
    assert library_calls(ShardedFunction(convolved, jax.devices()[:1])._function) == 0


def test_a_platform_that_is_not_here_has_none(monkeypatch):
    def none_there(*, backend):
        raise RuntimeError(f"Unknown backend: {backend!r} requested")

    monkeypatch.setattr(jax, "local_devices", none_there)
    assert compiler_options("gpu") == {}


def test_what_xla_flags_name_is_left_to_them(monkeypatch):
    assert OPTION in compiler_options("cpu")
    compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", f"--{OPTION}=LIBRARY_FUSION_TYPE_REDUCE")
    assert compiler_options("cpu") == {}


@pytest.mark.parametrize(
    "options", [{"xla_no_such_option": True}, {OPTION: "NO_SUCH_TYPE"}]
)
def test_an_xla_that_does_not_know_them_gets_none(monkeypatch, options):
    monkeypatch.setitem(module._COMPILER_OPTIONS, "cpu", options)
    assert compiler_options("cpu") == {}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_this_xla_knows_them(platform):
    """Options are the same for all platforms, whether one looks at them or not."""
    options = module._COMPILER_OPTIONS[platform]
    assert jax.jit(jnp.negative, compiler_options=options)(1.0) == -1


def test_platforms_without_any():
    assert compiler_options("tpu") == {}
