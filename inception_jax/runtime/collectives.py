# SPDX-License-Identifier: Apache-2.0
"""Operations inside a step that combine the shards of a batch.

A step is a function of one shard, `step(state, batch, numbers, *, axis_name)`, mapped over
devices by `parallel`. `numbers` holds traced scalars: seed, learning rate, residual scale.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.config import ParallelConfig

DATA_AXIS = "data"
GROUP_AXIS = "group"  # groups of neighbouring devices that share batch statistics

AxisName = str | tuple[str, ...]
Batch = dict[str, Any]  # arrays [examples, ...] of NumPy or JAX
# Called as above; returns a result that is equal on all devices.
Step = Callable[..., Any]


def mark_varying(tree: Any, axis_name: AxisName) -> Any:
    """Mark arrays as varying over the shards, so that their gradients are not summed."""
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name

    def mark(x: jax.Array) -> jax.Array:
        missing = set(axes) - jax.typeof(x).manual_axis_type.varying
        return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x

    return jax.tree.map(mark, tree)


def mean_over(tree: Any, axis_name: AxisName) -> Any:
    """Return the mean of arrays over all shards, which must have equal size."""
    # One axis at a time: batch statistics that a group shares vary only over the groups,
    # and shard_map rejects a mean over both kinds of axes at once.
    for axis in (axis_name,) if isinstance(axis_name, str) else axis_name:
        tree = jax.lax.pmean(tree, axis)
    return tree


def with_stop_flag(step: Step) -> Step:
    """Make `step` also return the sum of the batch entry "stop" over all devices.

    The returned step gives `(result of step, sum)`. The entry, a float32 vector of the same
    length on each device, is hidden from `step`. Through the sum, every process learns
    that one of them was asked to stop, without another exchange between the hosts.
    """

    def step_and_flag(
        state: Any, batch: Batch, numbers: Any, *, axis_name: AxisName
    ) -> tuple[Any, jax.Array]:
        batch = dict(batch)
        stop = jax.lax.psum(jnp.sum(batch.pop("stop")), axis_name)
        return step(state, batch, numbers, axis_name=axis_name), stop

    return step_and_flag


def bn_options(config: ParallelConfig, num_devices: int) -> dict[str, Any]:
    """Return the options of `inception_jax.create` that implement `bn_sync`.

    Raises ValueError if the devices do not divide into groups of `bn_sync`.
    """
    if config.bn_sync == "none":
        return {}
    options: dict[str, Any] = {"bn_axis_name": DATA_AXIS}
    groups = num_bn_groups(config, num_devices)
    if groups > 1 and config.wrapper == "pmap":
        indices = np.arange(num_devices).reshape(groups, -1)
        options["bn_axis_index_groups"] = tuple(map(tuple, indices.tolist()))
    return options


def num_bn_groups(config: ParallelConfig, num_devices: int) -> int:
    """Return the number of device groups that share batch statistics; 1 without groups.

    Raises ValueError if the devices do not divide into groups of `bn_sync`.
    """
    if not isinstance(config.bn_sync, int):
        return 1
    if num_devices % config.bn_sync:
        raise ValueError(
            f"bn_sync={config.bn_sync} does not divide the {num_devices} devices into "
            "equal groups; choose a divisor, none or global."
        )
    return num_devices // config.bn_sync
