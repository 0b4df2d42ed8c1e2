# SPDX-License-Identifier: Apache-2.0
"""The state of a training run, and its initial value."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from inception_jax.config import OptimizerConfig
from inception_jax.models.network import Network
from inception_jax.training.optimizer import make_optimizer, trainable_params
from inception_jax.training.stale import make_copies


class TrainState(NamedTuple):
    """Everything that changes during training; the same on every device."""

    step: Int[Array, ""]  # number of updates done
    params: dict
    batch_stats: dict  # moving averages of batch normalisation
    # Exponential moving averages of `params` and, as in slim, of `batch_stats`.
    ema_params: dict
    ema_batch_stats: dict
    opt_state: Any
    # In training with stale gradients, the copies of the trained parameters that replicas
    # hold, `[replicas, ...]`; see `stale`.
    replicas: Any = None

    @property
    def raw_variables(self) -> dict[str, dict]:
        """Raw weights, as `network.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def ema_variables(self) -> dict[str, dict]:
        """Averaged weights, which the paper evaluates, as `network.apply` takes them."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def tree_bytes(tree: Any) -> int:
    """Return the bytes of all arrays or shapes of a pytree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@lru_cache(maxsize=4)  # compile once for all runs of a process
def jitted_init(
    network: Network, config: OptimizerConfig, replicas: int = 1
) -> Callable[[int], TrainState]:
    """Return `init_state` as a jitted function of the seed."""
    return jax.jit(partial(init_state, network, config, replicas=replicas))


def state_shapes(
    network: Network, config: OptimizerConfig, replicas: int = 1
) -> TrainState:
    """Return an initial state of `jax.ShapeDtypeStruct`; nothing is compiled."""
    return jax.eval_shape(jitted_init(network, config, replicas), 0)


def init_state(
    network: Network,
    config: OptimizerConfig,
    seed: int | Int[Array, ""],
    replicas: int = 1,
) -> TrainState:
    """Return the initial state with random weights, which all replicas hold."""
    images = jnp.zeros((1, *network.spec.image_shape))
    variables = network.init(jax.random.key(seed), images)
    params, batch_stats = variables["params"], variables["batch_stats"]
    trained = trainable_params(params, config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        # Copies, because a buffer cannot be donated to the step twice.
        ema_params=jax.tree.map(jnp.copy, params),
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats),
        opt_state=make_optimizer(config, 0.0).init(trained),
        replicas=make_copies(trained, replicas),
    )
