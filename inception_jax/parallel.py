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
ARM_AXIS = "arm"

AxisName = str | tuple[str, ...]
Batch = dict[str, np.ndarray | jax.Array]
# (state, batch of one shard, traced numbers, *, axis_name) -> what all devices agree on
Step = Callable[..., Any]


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


def all_devices() -> list[jax.Device]:
    """Devices of all hosts."""
    return jax.devices()


def this_host() -> tuple[int, int]:
    """Index of this host, and how many there are."""
    return jax.process_index(), jax.process_count()


def describe(devices: Sequence[jax.Device]) -> str:
    """For people and records: "4 x TPU v4"."""
    return f"{len(devices)} x {devices[0].device_kind}"


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """bfloat16 operations per second of all `devices`; None where it is not known."""
    peak = PEAK_BFLOAT16.get(devices[0].device_kind)
    return peak and peak * len(devices)


def replicated(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Shapes of `tree` as they stand whole on every device, to restore a state into."""
    everywhere = NamedSharding(Mesh(np.array(devices), (DATA_AXIS,)), P())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
    )


def arm_devices() -> list[jax.Device]:
    """This host's devices, for `ArmParallel`."""
    return jax.local_devices()


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


def varying(tree: Any, axis_name: AxisName) -> Any:
    """`tree`, marked as each shard's own: what differentiating by it gives is so too."""
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name

    def mark(x: jax.Array) -> jax.Array:
        missing = set(axes) - jax.typeof(x).manual_axis_type.varying
        return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x

    return jax.tree.map(mark, tree)


def mean_over(tree: Any, axis_name: AxisName) -> Any:
    """Mean of `tree` over all shards of equal size.

    One axis after the other, since batch statistics that a group of devices shares vary
    over the groups alone, and shard_map refuses a mean over both kinds of axes at once.
    """
    for axis in (axis_name,) if isinstance(axis_name, str) else axis_name:
        tree = jax.lax.pmean(tree, axis)
    return tree


class DataParallel:
    """`step` over `devices` (default: all), called with (state, batch, numbers).

    The batch is this host's share, a dict of arrays `[examples, ...]`; it is cut evenly
    over this host's devices. State and numbers go to every device whole, and what comes
    back is the same everywhere. With `donate_state` the state passed in is used up.
    """

    def __init__(
        self,
        step: Step,
        config: ParallelConfig,
        devices: Sequence[jax.Device] | None = None,
        *,
        donate_state: bool = True,
    ) -> None:
        devices = list(devices or jax.devices())
        donate = (0,) if donate_state else ()
        self._local = sum(d.process_index == jax.process_index() for d in devices)
        self._by_pmap = config.wrapper == "pmap"
        mesh, axes = _mesh(config, devices)
        if self._by_pmap:
            self._mapped = jax.pmap(
                partial(step, axis_name=DATA_AXIS),
                axis_name=DATA_AXIS,
                in_axes=(None, 0, None),
                out_axes=None,
                devices=devices,
                donate_argnums=donate,
            )
            mesh, axes = Mesh(np.array(devices), (DATA_AXIS,)), (DATA_AXIS,)  # pmap's own
        else:
            self._mapped = jax.jit(
                jax.shard_map(
                    partial(step, axis_name=axes),
                    mesh=mesh,
                    in_specs=(P(), P(axes), P()),
                    out_specs=P(),
                ),
                donate_argnums=donate,
            )
        self._everywhere = NamedSharding(mesh, P())
        self._cut = NamedSharding(mesh, P(axes))

    def place(self, batch: Batch) -> Batch:
        """Send a batch to the devices, so that it is there when its step begins.

        Raises ValueError if the examples do not divide over the devices.
        """
        return {name: self._place(name, x) for name, x in batch.items()}

    def _place(self, name: str, x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        if isinstance(x, jax.Array) and x.sharding == self._cut:
            return x
        if len(x) % self._local:
            raise ValueError(
                f"a batch of {len(x)} ({name}) does not divide over {self._local} "
                "devices; choose a multiple."
            )
        if not self._by_pmap:
            return jax.make_array_from_process_local_data(self._cut, x)
        x = x.reshape(self._local, -1, *x.shape[1:])
        # Of several hosts, pmap takes each one's share as it is and places it itself.
        return x if jax.process_count() > 1 else jax.device_put(x, self._cut)

    def __call__(self, state: Any, batch: Batch, numbers: Any) -> Any:
        """Raises ValueError as `place` does."""
        # Placed as the step returns it; otherwise the second call would compile again.
        leaves = jax.tree.leaves(state)
        if any(getattr(x, "sharding", None) != self._everywhere for x in leaves):
            state = jax.device_put(state, self._everywhere)
        return self._mapped(state, self.place(batch), numbers)


class WholeBatch:
    """`function` of a batch that lies cut over `devices` (default: all) and is seen whole.

    Called with (state, batch, numbers), the batch as `place` gives it. Unlike a step the
    function knows no axis: a mean over examples, batch statistics included, is one over all
    of them, so that its result, which is the same everywhere, knows no device count.
    """

    def __init__(
        self, function: Callable[..., Any], devices: Sequence[jax.Device] | None = None
    ) -> None:
        devices = list(devices or jax.devices())
        mesh = Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(mesh, P())
        self._cut = NamedSharding(mesh, P(DATA_AXIS))
        self._compiled = jax.jit(function, out_shardings=self._everywhere)

    def place(self, batch: Batch) -> Batch:
        """Send this host's share of a batch, which divides over its devices, to them."""
        return jax.tree.map(
            partial(jax.make_array_from_process_local_data, self._cut), batch
        )

    def __call__(self, state: Any, batch: Batch, numbers: Any) -> Any:
        state, numbers = jax.device_put((state, numbers), self._everywhere)
        return self._compiled(state, batch, numbers)


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


class ArmParallel:
    """`function` for several arms at once, one on each device, that share nothing.

    Every leaf of what it takes and gives has a leading axis with one entry for each
    device. `function` sees one arm without that axis, on a data axis (`DATA_AXIS`) of
    size 1, so that a train step runs in it as it is. With `donate` the first argument is
    used up.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        devices: Sequence[jax.Device],
        *,
        donate: bool = False,
    ) -> None:
        mesh = Mesh(np.array(devices).reshape(-1, 1), (ARM_AXIS, DATA_AXIS))
        arms = P((ARM_AXIS, DATA_AXIS))

        def one(*stacked: Any) -> Any:
            result = function(*jax.tree.map(lambda x: x[0], stacked))
            return jax.tree.map(lambda x: x[None], result)

        mapped = jax.shard_map(one, mesh=mesh, in_specs=arms, out_specs=arms)
        self._mapped = jax.jit(
            mapped,
            in_shardings=NamedSharding(mesh, arms),
            donate_argnums=(0,) if donate else (),
        )

    def __call__(self, *trees: Any) -> Any:
        """Arrays that are not on the devices yet are sent there."""
        return self._mapped(*trees)
