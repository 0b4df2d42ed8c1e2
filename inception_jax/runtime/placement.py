# SPDX-License-Identifier: Apache-2.0
"""Placement of arrays that every device holds in full."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from inception_jax.runtime.collectives import DATA_AXIS


def replicate(tree: Any | None, like: Any, devices: Sequence[jax.Device]) -> Any:
    """Copy process 0's arrays, bit for bit, to all `devices`.

    All processes call it. The argument `tree` of the others is ignored; `like` holds the
    shapes and dtypes.
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
    """Place arrays that are equal in all processes; copy only those not placed yet."""
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
