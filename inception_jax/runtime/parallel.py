# SPDX-License-Identifier: Apache-2.0
"""Functions that run on several devices at once.

A step (see `collectives`) is a function of one shard of the batch. `data_parallel` maps it
over the devices of all processes, with `jax.pmap` or `jax.shard_map`. The state has no
device axis, so a saved state does not depend on the number of devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.config import ParallelConfig
from inception_jax.runtime.collectives import (
    DATA_AXIS,
    GROUP_AXIS,
    AxisName,
    Batch,
    Step,
    num_bn_groups,
)
from inception_jax.runtime.devices import all_devices, compiler_options

DEVICE_AXIS = "device"

Devices = Sequence[jax.Device]


class ParallelStep:
    """A compiled step on several devices, called with (state, batch, numbers).

    The batch is this process's part, a dict of arrays `[examples, ...]`, which is divided
    evenly among its devices. State and numbers (traced scalars) are copied to every device;
    the result is the same on every device. With `donate` the passed state is consumed.
    """

    _function: Any  # the jitted or mapped step

    def __init__(self, devices: Devices, mesh: Mesh, axes: AxisName) -> None:
        process = jax.process_index()
        self._local_count = sum(device.process_index == process for device in devices)
        self._replicated = NamedSharding(mesh, P())
        self._sharded = NamedSharding(mesh, P(axes))

    def __call__(self, state: Any, batch: Batch, numbers: Any) -> Any:
        """Run the step; raises ValueError as `place` does."""
        # Placed as the step returns it; otherwise the second call would recompile.
        state = place_replicated(state, self._replicated)
        return self._function(state, self.place(batch), numbers)

    def place(self, batch: Batch) -> Batch:
        """Copy a batch to the devices before its step runs.

        Raises ValueError if the examples do not divide evenly among the devices.
        """
        return {name: self._place(name, x) for name, x in batch.items()}

    def _place(self, name: str, x: np.ndarray | jax.Array) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == self._sharded:
            return x
        if len(x) % self._local_count:
            raise ValueError(
                f"a batch of {len(x)} ({name}) does not divide evenly among "
                f"{self._local_count} devices; choose a multiple."
            )
        return self._send(x)

    def _send(self, x: np.ndarray | jax.Array) -> jax.Array:
        return jax.make_array_from_process_local_data(self._sharded, x)


class PmapStep(ParallelStep):
    """A step mapped by `jax.pmap`."""

    def __init__(
        self, step: Step, config: ParallelConfig, devices: Devices, donate: bool = True
    ) -> None:
        num_bn_groups(config, len(devices))  # raises ValueError
        # pmap takes and returns this process's part, on a mesh of its own devices.
        mesh = Mesh(np.array(devices), (DATA_AXIS,)).local_mesh
        super().__init__(devices, mesh, DATA_AXIS)
        donated = (0,) if donate else ()
        self._function = jax.pmap(
            partial(step, axis_name=DATA_AXIS),
            axis_name=DATA_AXIS,
            in_axes=(None, 0, None),
            out_axes=None,
            devices=devices,
            donate_argnums=donated,
        )
        if jax.process_count() == 1:  # jit cannot wrap a multi-process pmap
            self._function = _jit(self._function, devices, donate_argnums=donated)

    def _send(self, x: np.ndarray | jax.Array) -> jax.Array:
        per_device = x.reshape(self._local_count, -1, *x.shape[1:])
        return jax.device_put(per_device, self._sharded)


class ShardMapStep(ParallelStep):
    """A step mapped by `jax.shard_map` and compiled by `jax.jit`."""

    def __init__(
        self, step: Step, config: ParallelConfig, devices: Devices, donate: bool = True
    ) -> None:
        groups = num_bn_groups(config, len(devices))
        axes = (GROUP_AXIS, DATA_AXIS) if groups > 1 else (DATA_AXIS,)
        grid = np.array(devices).reshape((groups, -1) if groups > 1 else -1)
        mesh = Mesh(grid, axes, axis_types=(AxisType.Auto,) * len(axes))
        super().__init__(devices, mesh, axes)
        mapped = jax.shard_map(
            partial(step, axis_name=axes),
            mesh=mesh,
            in_specs=(P(), P(axes), P()),
            out_specs=P(),
        )
        self._function = _jit(mapped, devices, donate_argnums=(0,) if donate else ())

    def lower(self, state: Any, batch: Any, numbers: Any) -> jax.stages.Lowered:
        """Lower the step for the shapes of the whole batch; the devices may be absent."""

        def shaped(tree: Any, sharding: NamedSharding) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        state, numbers = shaped((state, numbers), self._replicated)
        return self._function.lower(state, shaped(batch, self._sharded), numbers)


def _jit(function: Callable[..., Any], devices: Devices, **options: Any) -> Any:
    options["compiler_options"] = compiler_options(devices[0].platform)
    return jax.jit(function, **options)


def data_parallel(
    step: Step,
    config: ParallelConfig,
    devices: Devices | None = None,
    *,
    donate: bool = True,
) -> ParallelStep:
    """Map `step` over `devices` (default: all) with the wrapper that `config` names.

    Raises ValueError if the devices do not divide into groups of `config.bn_sync`.
    """
    kind = PmapStep if config.wrapper == "pmap" else ShardMapStep
    return kind(step, config, list(devices or all_devices()), donate)


def connect_devices() -> None:
    """Connect all devices of all processes, by computing a sum over them.

    CPU devices wait at most 30 s for one another when they first connect. Processes can
    take longer than that to compile a training step, so they connect in this small program,
    which compiles fast.
    """

    def total(state: Any, batch: Batch, numbers: Any, *, axis_name: AxisName) -> Any:
        return jax.lax.psum(jnp.sum(batch["one"]), axis_name)

    ones = {"one": np.ones(len(jax.local_devices()), np.float32)}
    jax.block_until_ready(data_parallel(total, ParallelConfig())(None, ones, None))


class ShardedFunction(ParallelStep):
    """A compiled function of a whole batch that is divided among `devices` (default: all).

    Unlike a step, the function is written for the whole batch, and XLA divides the work.
    Means over examples, including batch statistics, are over all examples for any number
    of devices. The state is not consumed.
    """

    def __init__(
        self, function: Callable[..., Any], devices: Devices | None = None
    ) -> None:
        devices = list(devices or all_devices())
        mesh = Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        super().__init__(devices, mesh, DATA_AXIS)
        self._function = _jit(function, devices, out_shardings=self._replicated)


class PerDevice:
    """A compiled function that works independently on each device.

    Every array of the arguments and results has a leading axis with one entry per device.
    `function` sees one entry, without that axis, on a data axis (`DATA_AXIS`) of size 1, so
    that a step can be used unchanged. With `donate` the first argument is consumed.
    """

    def __init__(
        self, function: Callable[..., Any], devices: Devices, *, donate: bool = False
    ) -> None:
        mesh = Mesh(np.array(devices).reshape(-1, 1), (DEVICE_AXIS, DATA_AXIS))
        spec = P((DEVICE_AXIS, DATA_AXIS))

        def on_one_device(*stacked: Any) -> Any:
            result = function(*jax.tree.map(lambda x: x[0], stacked))
            return jax.tree.map(lambda x: x[None], result)

        self._function = jax.jit(
            jax.shard_map(on_one_device, mesh=mesh, in_specs=spec, out_specs=spec),
            in_shardings=NamedSharding(mesh, spec),
            donate_argnums=(0,) if donate else (),
        )

    def __call__(self, *trees: Any) -> Any:
        """Run the function; arrays that are not on the devices yet are copied there."""
        return self._function(*trees)


def replicate(tree: Any | None, like: Any, devices: Devices) -> Any:
    """Copy process 0's arrays, bit for bit, to all `devices`.

    Collective. Processes other than 0 ignore `tree`; `like` holds shapes and dtypes.
    """
    if jax.process_count() > 1:
        if jax.process_index() > 0:
            tree = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        # As integers: the broadcast is a sum over the processes, and 0.0 + -0.0 is 0.0.
        bits = jax.tree.map(lambda x: np.asarray(x).view(f"u{x.dtype.itemsize}"), tree)
        bits = multihost_utils.broadcast_one_to_all(bits)
        tree = jax.tree.map(lambda x, to: np.asarray(x).view(to.dtype), bits, like)
    return place_replicated(tree, NamedSharding(Mesh(np.array(devices), (DATA_AXIS,)), P()))


def place_replicated(tree: Any, replicated: NamedSharding) -> Any:
    """Place arrays that are equal in all processes, unless all are placed already."""
    if all(getattr(x, "sharding", None) == replicated for x in jax.tree.leaves(tree)):
        return tree
    local = NamedSharding(replicated.mesh.local_mesh, replicated.spec)

    def place(x: Any) -> jax.Array:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            x = jax.device_put(x, local)
        # Assembles a global array from this process's copies without communication.
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, replicated, copies)

    return jax.tree.map(place, tree)
