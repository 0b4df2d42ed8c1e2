# SPDX-License-Identifier: Apache-2.0
"""Devices: their speed, their compiler options, and TPUs that exist only for compiling."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Dense bfloat16 operations per second of one jax.Device, from cloud.google.com/tpu/docs
# and NVIDIA's data sheets.
PEAK_BFLOAT16 = {
    "TPU v3": 61.5e12,  # one of the two cores of a chip
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
# By platform; measured on whole networks in `experiments/speed/README.md`.
_COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    # Keeps convolutions out of YNNPACK, where weight gradients take four times as long.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    # Runs 1x1 convolutions, which are matrix multiplications, in cuBLAS.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}


def all_devices() -> list[jax.Device]:
    """Return the devices of all processes, grouped by process."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def local_devices() -> list[jax.Device]:
    """Return the devices of this process."""
    return jax.local_devices()


def describe(devices: Sequence[jax.Device]) -> str:
    """Return the number and the kind of the devices, such as "4 x TPU v4"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Return the bfloat16 operations per second of all `devices`; None if unknown."""
    peak = PEAK_BFLOAT16.get(devices[0].device_kind)
    return None if peak is None else peak * len(devices)


def device_memory() -> int:
    """Return the bytes of memory of each device; CPUs share that of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total // jax.local_device_count()


def compile_only_tpus(topology: str) -> list[jax.Device]:
    """Return the chips of a TPU slice such as "v5e:4x4"; needs libtpu, but no TPU."""
    from jax.experimental import topologies

    # Without this option, the two cores of a v4 chip would be separate devices.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    return topologies.get_topology_desc(topology, "tpu", **options).devices


@lru_cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Return the options of `jax.jit` that make these networks fastest on a platform.

    Training, evaluation and prediction use them, except `pmap` with several processes. For
    a `jax.jit` of your own::

        apply = jax.jit(
            network.apply, compiler_options=compiler_options(jax.default_backend())
        )

    Args:
      platform: the `platform` of a `jax.Device`, such as "cpu", "gpu" or "tpu".

    Returns:
      Values for the `compiler_options` argument of `jax.jit`, without those that
      `XLA_FLAGS` sets. Empty if the platform needs no options or has no device on this
      machine, or if this version of XLA does not support them.
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
    one = jax.device_put(np.float32(1), device)
    try:
        jax.jit(jnp.negative, compiler_options=options)(one)
    except jax.errors.JaxRuntimeError:  # "No such compile option"
        return {}
    return options
