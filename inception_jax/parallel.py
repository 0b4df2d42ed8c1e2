# SPDX-License-Identifier: Apache-2.0
"""Data parallelism: the only file that knows devices.

A step is written for one shard of the batch and reduces over `axis_name` itself; here it
is mapped over the devices of all hosts with `jax.pmap` or `jax.jit(jax.shard_map)`. State
is never stacked on a device axis, so nothing that is saved knows a device count.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.config import ParallelConfig

DATA_AXIS = "data"
GROUP_AXIS = "group"

AxisName = str | tuple[str, ...]
Batch = dict[str, np.ndarray]
# (state, batch of one shard, traced numbers, *, axis_name) -> what all devices agree on
Step = Callable[..., Any]


def local_devices_for(*sizes: int) -> list[jax.Device]:
    """This host's devices, as many as divide every batch size in `sizes`."""
    devices = jax.local_devices()
    counts = range(len(devices), 0, -1)
    return devices[: next(n for n in counts if not any(size % n for size in sizes))]


def bn_options(config: ParallelConfig, num_devices: int) -> dict[str, Any]:
    """Options for `create` that give batch normalisation the statistics of `bn_sync`.

    Raises ValueError if the devices do not divide into groups of `bn_sync`.
    """
    if config.bn_sync == "none":
        return {}
    options: dict[str, Any] = {"bn_axis_name": DATA_AXIS}
    groups = _groups(config, num_devices)
    if groups > 1 and config.wrapper == "pmap":
        indices = np.arange(num_devices).reshape(groups, -1)
        options["bn_axis_index_groups"] = tuple(map(tuple, indices.tolist()))
    return options


def _groups(config: ParallelConfig, num_devices: int) -> int:
    """Number of groups that share batch statistics, where a group size is set."""
    if not isinstance(config.bn_sync, int):
        return 1
    if num_devices % config.bn_sync:
        raise ValueError(
            f"bn_sync={config.bn_sync} does not divide the {num_devices} devices into "
            "equal groups; choose a divisor, none or global."
        )
    return num_devices // config.bn_sync


def mean_over(tree: Any, axis_name: AxisName) -> Any:
    """Mean of `tree` over all shards of equal size.

    One axis after the other, since batch statistics that a group of devices shares vary
    over the groups alone, and shard_map refuses a mean over both kinds of axes at once.
    """
    for axis in (axis_name,) if isinstance(axis_name, str) else axis_name:
        tree = jax.lax.pmean(tree, axis)
    return tree


def data_parallel(
    step: Step,
    config: ParallelConfig,
    devices: Sequence[jax.Device] | None = None,
    *,
    donate_state: bool = True,
) -> Callable[[Any, Batch, Any], Any]:
    """`step` over `devices` (default: all) as a function of (state, batch, numbers).

    The batch is this host's share, a dict of arrays `[examples, ...]`; it is cut evenly
    over this host's devices. State and numbers go to every device whole, and what comes
    back is the same everywhere. With `donate_state` the state passed in is used up.

    Raises ValueError if the examples do not divide over the devices.
    """
    devices = list(devices or jax.devices())
    donate = (0,) if donate_state else ()
    local = sum(d.process_index == jax.process_index() for d in devices)
    mesh, axes = _mesh(config, devices)
    if config.wrapper == "pmap":
        mapped = jax.pmap(
            partial(step, axis_name=DATA_AXIS),
            axis_name=DATA_AXIS,
            in_axes=(None, 0, None),
            out_axes=None,
            devices=devices,
            donate_argnums=donate,
        )
        mesh = Mesh(np.array(devices), (DATA_AXIS,))  # the one that pmap returns

        def place(x: np.ndarray) -> np.ndarray:
            return x.reshape(local, -1, *x.shape[1:])

    else:
        mapped = jax.jit(
            jax.shard_map(
                partial(step, axis_name=axes),
                mesh=mesh,
                in_specs=(P(), P(axes), P()),
                out_specs=P(),
            ),
            donate_argnums=donate,
        )
        place = partial(
            jax.make_array_from_process_local_data, NamedSharding(mesh, P(axes))
        )
    everywhere = NamedSharding(mesh, P())

    def run(state: Any, batch: Batch, numbers: Any) -> Any:
        for name, x in batch.items():
            if len(x) % local:
                raise ValueError(
                    f"a batch of {len(x)} ({name}) does not divide over {local} "
                    "devices; choose a multiple."
                )
        # Placed as the step returns it; otherwise the second call would compile again.
        leaves = jax.tree.leaves(state)
        if any(getattr(x, "sharding", None) != everywhere for x in leaves):
            state = jax.device_put(state, everywhere)
        return mapped(state, jax.tree.map(place, batch), numbers)

    return run


def _mesh(
    config: ParallelConfig, devices: list[jax.Device]
) -> tuple[Mesh, tuple[str, ...]]:
    """One axis, or two where groups share statistics: those are neighbours in `data`."""
    groups = _groups(config, len(devices))
    grid = np.array(devices)
    names: tuple[str, ...] = (DATA_AXIS,)
    if groups > 1:
        grid, names = grid.reshape(groups, -1), (GROUP_AXIS, DATA_AXIS)
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names)), names
