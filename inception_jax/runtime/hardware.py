# SPDX-License-Identifier: Apache-2.0
"""What devices are called, and what they can do."""

from collections.abc import Sequence

import jax

# Vendors' figures for dense bfloat16, operations per second of one device as jax counts
# them. cloud.google.com/tpu/docs; NVIDIA's data sheets.
PEAK_BFLOAT16 = {
    "TPU v3": 61.5e12,  # one core of two
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


def describe(devices: Sequence[jax.Device]) -> str:
    """For people and records: "4 x TPU v4"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """bfloat16 operations per second of all `devices`; None where it is not known."""
    peak = PEAK_BFLOAT16.get(devices[0].device_kind)
    return peak and peak * len(devices)
