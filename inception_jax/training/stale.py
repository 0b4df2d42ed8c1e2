# SPDX-License-Identifier: Apache-2.0
"""Asynchronous training with stale gradients: several replicas, simulated in one program.

Each replica holds a copy of the trained parameters. At every update one replica computes
the gradient at its copy. The gradient is applied at once to the shared parameters, and the
replica fetches the result. Workers that train with TensorFlow 1's parameter servers do the
same. They also share the optimizer state and the moving averages of batch normalisation.

The functions here choose the replica of an update, and read and write the copies: a dict of
parameters with a leading axis of replicas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from inception_jax.config import ParallelConfig

# Keys of dropout are folded with a step, which is never as large.
_STREAM = 2**32 - 1


class StaleNumbers(NamedTuple):
    """Traced scalars of the replicas: changing them does not recompile the step."""

    replicas: Int[Array, ""]  # number in use, at most the number of copies
    stagger: Int[Array, ""]  # updates between two joins; 0: all join at the start
    random: Int[Array, ""]  # 1: a random replica at every update; 0: they take turns


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


def num_joined(step: Int[Array, ""], numbers: StaleNumbers) -> Int[Array, ""]:
    """Return how many replicas have joined: number k joins at step `k * stagger`."""
    in_turn = 1 + step // jnp.maximum(numbers.stagger, 1)
    count = numbers.replicas
    return jnp.where(numbers.stagger > 0, jnp.minimum(in_turn, count), count)


def replica_at(
    step: Int[Array, ""], seed: Int[Array, ""], numbers: StaleNumbers
) -> Int[Array, ""]:
    """Return the replica that computes the gradient of a step; the same on all devices."""
    joined = num_joined(step, numbers)
    key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    drawn = jax.random.randint(jax.random.fold_in(key, step), (), 0, joined)
    return jnp.where(numbers.random > 0, drawn, step % joined)


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

    The replica of the step fetches `params`, and so does one that joins at the next step.
    """
    after = num_joined(step + 1, numbers)
    joining = jnp.where(after > num_joined(step, numbers), after - 1, replica)

    def write(copies: Array, x: Array) -> Array:
        for index in (replica, joining):
            copies = jax.lax.dynamic_update_index_in_dim(copies, x, index, 0)
        return copies

    return jax.tree.map(write, copies, params)
