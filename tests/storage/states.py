# SPDX-License-Identifier: Apache-2.0
"""Small states with every kind of leaf and node that a training state has."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from inception_jax.storage.digests import Record


class State(NamedTuple):
    """Like a TrainState, with bfloat16, scalars, special values and empty nodes."""

    step: Any
    params: dict
    opt_state: Any


def state_of(step: int) -> State:
    """Return a state that differs for every step."""
    rng = np.random.default_rng(step)
    kernel = rng.normal(size=(3, 3, 8, 16)).astype(np.float32)
    kernel[0, 0, 0, :3] = np.nan, -0.0, np.inf
    params = {
        "conv": {"kernel": kernel, "scale": jnp.asarray(rng.normal(size=5), jnp.bfloat16)},
        "rate": jnp.float32(rng.normal()),
    }
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    return State(jnp.int32(step), params, chain.init(params))


LIKE = jax.eval_shape(lambda: state_of(0))


def tree_digest(tree: Any) -> str:
    """Return the digest that a checkpoint of `tree` has, at any step."""
    return Record.of(0, tree).digest


def identical(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    same = jax.tree.structure(a) == jax.tree.structure(b)
    return same and all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in ((np.asarray(x), np.asarray(y)) for x, y in pairs)
    )
