# SPDX-License-Identifier: Apache-2.0
"""Programs are compiled with the options of `compiler_options`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import ParallelConfig
from inception_jax.runtime import devices
from inception_jax.runtime.devices import compiler_options
from inception_jax.runtime.parallel import ShardedFunction, data_parallel

IMAGES = {"image": np.ones((2, 17, 17, 32), np.float32)}
KERNEL = np.ones((3, 3, 32, 32), np.float32)
OPTION = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture(autouse=True)
def _clear_cache():
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
    """Return how many fusions XLA runs in YNNPACK."""
    # `trace` first: the `lower` of a jitted pmap is that of the inner pmap.
    text = jitted.trace(KERNEL, IMAGES, None).lower().compile().as_text()
    assert "convolution(" in text
    return text.count("__ynn_fusion")


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
def test_steps(wrapper):
    def step(*arguments: Any, axis_name: str) -> jax.Array:
        return jax.lax.pmean(convolved(*arguments), axis_name)

    assert library_calls(jax.jit(convolved)) > 0  # without the options there are some
    config = ParallelConfig(wrapper)
    parallel = data_parallel(step, config, jax.devices()[:2], donate=False)
    assert library_calls(parallel._function) == 0


def test_inference():
    assert library_calls(ShardedFunction(convolved, jax.devices()[:1])._function) == 0


def test_a_platform_without_devices_has_no_options(monkeypatch):
    def no_devices(*, backend):
        raise RuntimeError(f"Unknown backend: {backend!r} requested")

    monkeypatch.setattr(jax, "local_devices", no_devices)
    assert compiler_options("gpu") == {}


def test_options_in_xla_flags_are_left_out(monkeypatch):
    assert OPTION in compiler_options("cpu")
    compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", f"--{OPTION}=LIBRARY_FUSION_TYPE_REDUCE")
    assert compiler_options("cpu") == {}


@pytest.mark.parametrize(
    "options", [{"xla_no_such_option": True}, {OPTION: "NO_SUCH_TYPE"}]
)
def test_an_unsupported_option_gives_no_options(monkeypatch, options):
    monkeypatch.setitem(devices._COMPILER_OPTIONS, "cpu", options)
    assert compiler_options("cpu") == {}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_this_version_of_xla_supports_all_options(platform):
    """XLA accepts the options of every platform on any platform."""
    options = devices._COMPILER_OPTIONS[platform]
    assert jax.jit(jnp.negative, compiler_options=options)(1.0) == -1


def test_a_platform_without_options():
    assert compiler_options("tpu") == {}
