# SPDX-License-Identifier: Apache-2.0
"""Asynchronous training with stale gradients, simulated in one program.

Each replica holds a copy of the trained parameters. At every step, one replica computes the
gradient at its copy. The gradient is applied immediately to the shared parameters, and the
replica then fetches the result. Workers that train with TensorFlow 1's parameter servers do
the same. They also share the optimizer state and the moving averages of batch
normalisation.

The copies are a dict of parameters whose arrays have a leading axis of replicas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from inception_jax.config import ParallelConfig

# The seed's key is folded with this number to choose replicas, and with the step for
# dropout. No step is as large, so the two sequences are independent.
_STREAM = 2**32 - 1


class StaleNumbers(NamedTuple):
    """Settings of the replicas as traced scalars; changing them does not recompile."""

    replicas: Int[Array, ""]  # number of replicas, at most the number of copies
    # Steps between the starts of two replicas; with 0, all start at once.
    stagger: Int[Array, ""]
    # 1 if a random replica is chosen at every step, 0 if the replicas are used cyclically.
    random: Int[Array, ""]


def stale_numbers(config: ParallelConfig) -> StaleNumbers | None:
    """Return the traced values of `config`; None for one replica, which is synchronous."""
    if config.stale_replicas == 1:
        return None
    values = config.stale_replicas, config.stale_stagger, config.stale_order == "random"
    return StaleNumbers(*map(jnp.int32, values))


def make_copies(trained: dict, count: int) -> dict | None:
    """Return `count` equal copies of parameters, each leaf `[count, ...]`; None for one."""
    if count == 1:
        return None
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), trained)


def num_started(step: Int[Array, ""], numbers: StaleNumbers) -> Int[Array, ""]:
    """Return the number of started replicas; replica k starts at step `k * stagger`."""
    in_turn = 1 + step // jnp.maximum(numbers.stagger, 1)
    count = numbers.replicas
    return jnp.where(numbers.stagger > 0, jnp.minimum(in_turn, count), count)


def replica_at(
    step: Int[Array, ""], seed: Int[Array, ""], numbers: StaleNumbers
) -> Int[Array, ""]:
    """Return the index of the replica of a step, which is the same on all devices."""
    started = num_started(step, numbers)
    key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    drawn = jax.random.randint(jax.random.fold_in(key, step), (), 0, started)
    return jnp.where(numbers.random > 0, drawn, step % started)


def read_copy(copies: dict, replica: Int[Array, ""]) -> dict:
    """Return the parameters that a replica holds."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, replica, keepdims=False), copies
    )


def fetch(
    copies: dict,
    params: dict,
    replica: Int[Array, ""],
    step: Int[Array, ""],
    numbers: StaleNumbers,
) -> dict:
    """Return the copies after a step that changed the shared parameters to `params`.

    The replica of this step fetches `params`, and so does a replica that starts at the next
    step.
    """
    after = num_started(step + 1, numbers)
    starting = jnp.where(after > num_started(step, numbers), after - 1, replica)

    def write(copies: Array, x: Array) -> Array:
        for index in (replica, starting):
            copies = jax.lax.dynamic_update_index_in_dim(copies, x, index, 0)
        return copies

    return jax.tree.map(write, copies, params)
