# SPDX-License-Identifier: Apache-2.0
"""XLA options that make the networks of this package faster."""

import os
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By platform; measured on whole networks in `experiments/speed/README.md`.
_COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    # Keeps convolutions out of YNNPACK, where weight gradients take four times as long.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    # Runs 1x1 convolutions, which are matrix multiplications, in cuBLAS.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}


@lru_cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Return the options of `jax.jit` with which these networks run fastest on a platform.

    Training, evaluation and prediction use them. For a `jax.jit` of your own::

        apply = jax.jit(
            network.apply, compiler_options=compiler_options(jax.default_backend())
        )

    Args:
      platform: the `platform` of a `jax.Device`, such as "cpu", "gpu" or "tpu".

    Returns:
      Values for the `compiler_options` argument of `jax.jit`. Options that `XLA_FLAGS` sets
      are left out. The dictionary is empty for a platform that needs none or has no device
      on this machine, and for a version of XLA that does not support the options.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    options = _COMPILER_OPTIONS.get(platform, {})
    options = {name: value for name, value in options.items() if name not in flags}
    if not options:
        return {}
    try:
        device = jax.local_devices(backend=platform)[0]
    except RuntimeError:  # no such device
        return {}
    try:
        one = jax.device_put(np.float32(1), device)
        jax.jit(jnp.negative, compiler_options=options)(one)
    except jax.errors.JaxRuntimeError:  # "No such compile option"
        return {}
    return options
