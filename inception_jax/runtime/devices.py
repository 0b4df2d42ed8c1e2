# SPDX-License-Identifier: Apache-2.0
"""The devices of a run, their names and speeds, and devices elsewhere to compile for."""

from collections.abc import Sequence

import jax

# Dense bfloat16 operations per second of one device as JAX counts them, from
# cloud.google.com/tpu/docs and NVIDIA's data sheets.
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


def all_devices() -> list[jax.Device]:
    """Return the devices of all processes, grouped by process."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def local_devices() -> list[jax.Device]:
    """Return the devices of this process."""
    return jax.local_devices()


def describe(devices: Sequence[jax.Device]) -> str:
    """Return number and kind of the devices, such as "4 x TPU v4"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Return the bfloat16 operations per second of all `devices`, None if not known."""
    peak = PEAK_BFLOAT16.get(devices[0].device_kind)
    return None if peak is None else peak * len(devices)


def compile_only_tpus(topology: str) -> list[jax.Device]:
    """Return the chips of a TPU slice such as "v5e:4x4"; needs libtpu, but no TPU."""
    from jax.experimental import topologies

    # Without this option the two cores of a v4 chip would be separate devices.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    return topologies.get_topology_desc(topology, "tpu", **options).devices


def compile_only_gpu(description: str) -> jax.Device:
    """Return the GPU of a `description` in the format of XLA's `gpu_specs`.

    Needs XLA's compiler for GPUs (the package jax_cuda12_plugin), but no GPU.
    """
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        "elsewhere", "cuda", target_config=description, topology="1x1x1"
    )
    return topology.devices[0]
