# SPDX-License-Identifier: Apache-2.0
"""One step of training and of evaluation, as pure functions of one shard of the batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from inception_jax.config import LossConfig, OptimizerConfig
from inception_jax.losses import cross_entropy
from inception_jax.metrics import classification_sums
from inception_jax.models.networks import Network
from inception_jax.optimizer import learning_rate_at, make_optimizer, update_ema
from inception_jax.parallel import AxisName, mean_over


class TrainState(NamedTuple):
    """All that changes while training: arrays only, the same on every device."""

    step: Int[Array, ""]  # updates done
    params: dict
    batch_stats: dict  # moving means and variances of batch normalisation
    ema_params: dict  # running average of params, which the paper evaluates
    opt_state: Any


class Numbers(NamedTuple):
    """What a compiled step takes as values, so that sweeping it compiles nothing."""

    learning_rate: Float[Array, ""]  # before its decay
    residual_scale: Float[Array, "..."] | None  # None: the network's own
    seed: Int[Array, ""]  # of dropout


def init_state(
    network: Network, config: OptimizerConfig, seed: int | Int[Array, ""]
) -> TrainState:
    """A fresh state; jit it, which compiles once for all seeds."""
    images = jnp.zeros((1, *network.spec.image_shape))
    variables = network.init(jax.random.key(seed), images)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        # A copy: two names for one buffer cannot both be donated to the step.
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=make_optimizer(config, 0.0).init(params),
    )


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    numbers: Numbers,
    *,
    network: Network,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    steps_per_epoch: int,
    axis_name: AxisName,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from this shard of the batch, averaged with the others over `axis_name`.

    `batch` has `image` `[n, h, w, c]` and `label` `[n]`. Returns the new state and
    metrics: `*_sum` and `count` over the whole batch, `grad_norm` (before weight decay
    and clipping) and `learning_rate`.
    """
    rng = jax.random.fold_in(jax.random.key(numbers.seed), state.step)
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

    def mean_loss(params: dict) -> tuple[Float[Array, ""], tuple]:
        (logits, endpoints), updated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            numbers.residual_scale,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        losses = cross_entropy(logits, batch["label"], loss.label_smoothing)
        total = jnp.mean(losses)
        if "AuxLogits" in endpoints:
            aux = cross_entropy(
                endpoints["AuxLogits"], batch["label"], loss.label_smoothing
            )
            total += loss.aux_weight * jnp.mean(aux)
        return total, (logits, losses, updated["batch_stats"])

    # Gradients of params marked as varying over the axis are this shard's own, under pmap
    # and shard_map alike; of params not so marked, shard_map returns the sum over shards.
    params = jax.lax.pcast(state.params, axis_name, to="varying")
    (_, (logits, losses, batch_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
        params
    )
    grads, batch_stats = mean_over((grads, batch_stats), axis_name)
    sums = classification_sums(logits, batch["label"], losses, jnp.ones_like(losses))

    rate = learning_rate_at(state.step, numbers.learning_rate, optimizer, steps_per_epoch)
    updates, opt_state = make_optimizer(optimizer, rate).update(
        grads, state.opt_state, state.params
    )
    params = jax.tree.map(jnp.add, state.params, updates)
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        ema_params=update_ema(state.ema_params, params, state.step, optimizer),
        opt_state=opt_state,
    )
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
    metrics = jax.lax.psum(sums, axis_name) | {
        "grad_norm": jnp.sqrt(sum(squares)),
        "learning_rate": rate,
    }
    return new_state, metrics


def eval_step(
    variables: dict[str, dict],
    batch: dict[str, Array],
    numbers: Numbers,
    *,
    network: Network,
    axis_name: AxisName,
) -> dict[str, Array]:
    """Sums over the examples whose `mask` is 1, with moving averages and no dropout.

    `variables` is `{"params", "batch_stats"}`; give it `params` or `ema_params`. Add the
    results of all batches and divide by `count`: `metrics.means`.
    """
    logits, _ = network.apply(variables, batch["image"], numbers.residual_scale)
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)
