# SPDX-License-Identifier: Apache-2.0
"""Data parallelism: the only file that knows devices.

A step is written for one shard of the batch and reduces over `axis_name` itself; here it
is mapped over the devices of all hosts with `jax.pmap` or `jax.jit(jax.shard_map)`. State
is never stacked on a device axis, so nothing that is saved knows a device count. With
several processes each holds a copy, the same in all of them, on every device of its own.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
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

# By platform, what made whole networks faster: `experiments/speed/README.md`.
_COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    # Convolutions not by YNNPACK, whose gradients of weights take four times as long.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
    # 1x1 convolutions, which are matrix products, by cuBLAS.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}


def all_devices() -> list[jax.Device]:
    """Devices of all hosts, those of one host side by side."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def this_host() -> tuple[int, int]:
    """Index of this host, and how many there are."""
    return jax.process_index(), jax.process_count()


@lru_cache
def compiler_options(platform: str) -> dict[str, Any]:
    """`compiler_options` of `jax.jit` for a network on a `jax.Device.platform`.

    What XLA_FLAGS names is left to it; an XLA that does not know them all gets none, nor
    does a platform that is not here.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    options = _COMPILER_OPTIONS.get(platform, {})
    options = {name: value for name, value in options.items() if name not in flags}
    if not options:
        return {}
    try:
        device = jax.local_devices(backend=platform)[0]
    except RuntimeError:  # not here
        return {}
    one = jax.device_put(np.float32(1), device)
    try:
        jax.jit(jnp.negative, compiler_options=options)(one)
    except jax.errors.JaxRuntimeError:  # "No such compile option"
        return {}
    return options


def share(tree: Any | None, like: Any, devices: Sequence[jax.Device]) -> Any:
    """Process 0's `tree` of arrays, whole on all `devices`, bit for bit.

    All processes call it; the others' `tree` is not looked at. `like` holds its shapes.
    """
    if jax.process_count() > 1:
        source = tree if jax.process_index() == 0 else jax.tree.map(_zeros, like)
        # As whole numbers: it is a sum over the processes, and 0.0 + -0.0 is 0.0.
        bits = jax.tree.map(lambda x: np.asarray(x).view(f"u{x.dtype.itemsize}"), source)
        bits = multihost_utils.broadcast_one_to_all(bits)
        tree = jax.tree.map(lambda x, to: np.asarray(x).view(to.dtype), bits, like)
    return _placed_whole(tree, NamedSharding(Mesh(np.array(devices), (DATA_AXIS,)), P()))


def _zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.zeros(like.shape, like.dtype)


def _placed_whole(tree: Any, everywhere: NamedSharding) -> Any:
    """`tree`, the same in all processes, on every device; what is there is not copied."""
    if all(getattr(x, "sharding", None) == everywhere for x in jax.tree.leaves(tree)):
        return tree
    here = NamedSharding(everywhere.mesh.local_mesh, everywhere.spec)

    def place(x: Any) -> jax.Array:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            x = jax.device_put(x, here)
        # This process's copies under a name for all, which takes no word from the others.
        copies = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

    return jax.tree.map(place, tree)


def meet() -> None:
    """One sum over all devices of all processes, which connects them.

    On CPUs they wait for one another no longer than 30 s when they connect, which is less
    than what one may take longer than another to compile the first step.
    """

    def total(state: Any, batch: Batch, numbers: Any, *, axis_name: AxisName) -> Any:
        return jax.lax.psum(jnp.sum(batch["one"]), axis_name)

    ones = {"one": np.ones(len(jax.local_devices()), np.float32)}
    jax.block_until_ready(DataParallel(total, ParallelConfig())(None, ones, None))


def heeding(step: Step) -> Step:
    """`step` and a message: with it returns the sum of a batch's "stop" over all devices.

    The entry, float32 and as many on each device, is not part of what `step` sees.
    """

    def heeded(state: Any, batch: Batch, numbers: Any, *, axis_name: AxisName) -> Any:
        batch = dict(batch)
        stop = jax.lax.psum(jnp.sum(batch.pop("stop")), axis_name)
        return step(state, batch, numbers, axis_name=axis_name), stop

    return heeded


def devices_elsewhere(topology: str) -> list[jax.Device]:
    """Chips of a TPU slice such as "v5e:4x4", to compile for; needs libtpu, no TPU."""
    from jax.experimental import topologies

    # Otherwise the two cores of a v4 chip would be devices of their own.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    return topologies.get_topology_desc(topology, "tpu", **options).devices


def gpu_elsewhere(description: str) -> jax.Device:
    """A GPU as XLA's `gpu_specs` describe it, to compile for; needs no GPU, but XLA's
    compiler for them, the package jax_cuda12_plugin."""
    from jax.experimental import topologies

    found = topologies.get_topology_desc(
        "elsewhere", "cuda", target_config=description, topology="1x1x1"
    )
    return found.devices[0]


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
        devices = list(devices or all_devices())
        donate = (0,) if donate_state else ()
        self._local = sum(d.process_index == jax.process_index() for d in devices)
        self._by_pmap = config.wrapper == "pmap"
        mesh, axes = _mesh(config, devices)
        compiled = partial(
            jax.jit,
            donate_argnums=donate,
            compiler_options=compiler_options(devices[0].platform),
        )
        if self._by_pmap:
            self._mapped = jax.pmap(
                partial(step, axis_name=DATA_AXIS),
                axis_name=DATA_AXIS,
                in_axes=(None, 0, None),
                out_axes=None,
                devices=devices,
                donate_argnums=donate,
            )
            if jax.process_count() == 1:  # with several, pmap has to be called by itself
                self._mapped = compiled(self._mapped)
            # What pmap takes and gives is this process's part, on a mesh of its devices.
            mesh, axes = Mesh(np.array(devices), (DATA_AXIS,)).local_mesh, (DATA_AXIS,)
        else:
            self._mapped = compiled(
                jax.shard_map(
                    partial(step, axis_name=axes),
                    mesh=mesh,
                    in_specs=(P(), P(axes), P()),
                    out_specs=P(),
                )
            )
        self._everywhere = NamedSharding(mesh, P())
        self._cut = NamedSharding(mesh, P(axes))

    def place(self, batch: Batch) -> Batch:
        """Send a batch to the devices, so that it is there when its step begins.

        Raises ValueError if the examples do not divide over the devices.
        """
        return {name: self._place(name, x) for name, x in batch.items()}

    def _place(self, name: str, x: np.ndarray | jax.Array) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == self._cut:
            return x
        if len(x) % self._local:
            raise ValueError(
                f"a batch of {len(x)} ({name}) does not divide over {self._local} "
                "devices; choose a multiple."
            )
        if not self._by_pmap:
            return jax.make_array_from_process_local_data(self._cut, x)
        return jax.device_put(x.reshape(self._local, -1, *x.shape[1:]), self._cut)

    def __call__(self, state: Any, batch: Batch, numbers: Any) -> Any:
        """Raises ValueError as `place` does."""
        # Placed as the step returns it; otherwise the second call would compile again.
        state = _placed_whole(state, self._everywhere)
        return self._mapped(state, self.place(batch), numbers)

    def lower(self, state: Any, batch: Any, numbers: Any) -> jax.stages.Lowered:
        """The program for such shapes, of the whole batch, to compile where the devices
        are not; with the wrapper shard_map."""

        def placed(tree: Any, sharding: NamedSharding) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        state, numbers = placed((state, numbers), self._everywhere)
        return self._mapped.lower(state, placed(batch, self._cut), numbers)


class WholeBatch:
    """`function` of a batch that lies cut over `devices` (default: all) and is seen whole.

    Called with (state, batch, numbers), the batch as `place` gives it. Unlike a step the
    function knows no axis: a mean over examples, batch statistics included, is one over all
    of them, so that its result, which is the same everywhere, knows no device count.
    """

    def __init__(
        self, function: Callable[..., Any], devices: Sequence[jax.Device] | None = None
    ) -> None:
        devices = list(devices or all_devices())
        mesh = Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(mesh, P())
        self._cut = NamedSharding(mesh, P(DATA_AXIS))
        self._compiled = jax.jit(
            function,
            out_shardings=self._everywhere,
            compiler_options=compiler_options(devices[0].platform),
        )

    def place(self, batch: Batch) -> Batch:
        """Send this host's share of a batch, which divides over its devices, to them."""
        return jax.tree.map(
            partial(jax.make_array_from_process_local_data, self._cut), batch
        )

    def __call__(self, state: Any, batch: Batch, numbers: Any) -> Any:
        state, numbers = _placed_whole((state, numbers), self._everywhere)
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
