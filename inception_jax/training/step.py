# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation steps as pure functions of one shard of a batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from inception_jax.config import LossConfig, OptimizerConfig, PreprocessSpec
from inception_jax.data.augment import distort_color, normalize
from inception_jax.models.network import Network
from inception_jax.runtime.collectives import AxisName, mark_varying, mean_over
from inception_jax.training.diagnostics import group_norms, update_ratios
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import Sums, classification_sums
from inception_jax.training.optimizer import (
    OptimizerNumbers,
    learning_rate_at,
    make_optimizer,
    trainable_params,
    update_ema,
)
from inception_jax.training.stale import (
    StaleNumbers,
    fetch,
    read_copy,
    replica_at,
)
from inception_jax.training.state import TrainState

# "image", "label" and, optionally, "color_seed" (training) or "mask" (evaluation); every
# array has a leading axis of examples.
Batch = dict[str, Array]


class Numbers(NamedTuple):
    """Traced scalars of a step: changing them does not recompile it."""

    optimizer: OptimizerNumbers
    residual_scale: Float[Array, "..."] | None  # None: the network's default
    seed: Int[Array, ""]  # seed of dropout and of the order of replicas
    stale: StaleNumbers | None = None  # if the state has replicas


@dataclass(frozen=True)
class TrainOptions:
    """Static arguments of a training step: changing them recompiles it."""

    network: Network
    optimizer: OptimizerConfig
    steps_per_epoch: float
    loss: LossConfig = field(default_factory=LossConfig)
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    accumulate: int = 1  # number of parts into which a shard is split, to save memory
    group_metrics: bool = False  # whether to add metrics of each of `diagnostics.GROUPS`


def network_input(batch: Batch, preprocess: PreprocessSpec) -> Float[Array, "n h w c"]:
    """Distort colours if the batch has "color_seed", then scale images from 0..255."""
    images = batch["image"]
    if "color_seed" in batch:
        images = distort_color(images, batch["color_seed"])
    return normalize(images, preprocess.low, preprocess.high)


def train_step(
    state: TrainState,
    batch: Batch,
    numbers: Numbers,
    *,
    options: TrainOptions,
    axis_name: AxisName,
) -> tuple[TrainState, dict[str, Array]]:
    """Return the state after one update, and its metrics.

    `batch` is one shard, with `image` `[n, h, w, c]` in uint8, `label` `[n]` and, to
    distort colours, `color_seed` `[n]`. Gradients are averaged over `axis_name`. If
    `options.accumulate` is above 1, each part of the shard is normalised with its own batch
    statistics and updates the moving averages in turn.

    If the state has replicas, the gradient and the weight decay are those at the copy of
    one replica, and this copy becomes the updated parameters. Everything else is shared.

    The metrics are the sums of `classification_sums` over the whole batch, `grad_norm`
    (before weight decay and clipping), `learning_rate` and, with `options.group_metrics`,
    `grad_norm/GROUP` and `update_ratio/GROUP`.
    """
    rng = jax.random.fold_in(jax.random.key(numbers.seed), state.step)
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    # Gradients with respect to parameters marked as varying are those of this shard, under
    # pmap and shard_map alike. For other parameters, shard_map returns the sum over shards.
    trained = held = trainable_params(state.params, options.optimizer)
    if numbers.stale is not None:
        replica = replica_at(state.step, numbers.seed, numbers.stale)
        held = read_copy(state.replicas, replica)
    marked = state._replace(params=state.params | mark_varying(held, axis_name))

    def gradients(batch_stats: dict, batch: Batch, rng: Array) -> Gradients:
        current = marked._replace(batch_stats=batch_stats)
        return batch_gradients(current, batch, rng, numbers.residual_scale, options)

    if options.accumulate == 1:
        result = gradients(state.batch_stats, batch, rng)
    else:
        result = accumulate_gradients(
            gradients, state.batch_stats, batch, rng, options.accumulate, axis_name
        )
    grads, batch_stats = mean_over((result.grads, result.batch_stats), axis_name)
    if options.network.bn_frozen:
        batch_stats = state.batch_stats  # unchanged bit for bit, unlike a mean of copies

    rate = learning_rate_at(
        state.step, numbers.optimizer, options.optimizer, options.steps_per_epoch
    )
    optimizer = make_optimizer(options.optimizer, rate, numbers.optimizer)
    new_state = _update(state, held, grads, batch_stats, optimizer, options)
    if numbers.stale is not None:
        after = trainable_params(new_state.params, options.optimizer)
        copies = fetch(state.replicas, after, replica, state.step, numbers.stale)
        new_state = new_state._replace(replicas=copies)
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
    metrics = jax.lax.psum(result.sums, axis_name) | {
        "grad_norm": jnp.sqrt(sum(squares)),
        "learning_rate": rate,
    }
    if options.group_metrics:
        after = trainable_params(new_state.params, options.optimizer)
        for group, norm in group_norms(grads).items():
            metrics[f"grad_norm/{group}"] = norm
        for group, ratio in update_ratios(trained, after).items():
            metrics[f"update_ratio/{group}"] = ratio
    return new_state, metrics


class Gradients(NamedTuple):
    """The contribution of one batch to an update."""

    grads: dict  # of the mean loss
    batch_stats: dict  # moving averages after the batch
    sums: Sums


def batch_gradients(
    state: TrainState,
    batch: Batch,
    rng: Array,
    residual_scale: Float[Array, "..."] | None,
    options: TrainOptions,
) -> Gradients:
    """Return the gradients of the mean loss with respect to the trainable parameters."""
    labels, loss = batch["label"], options.loss

    def mean_loss(trained: dict) -> tuple[Float[Array, ""], tuple]:
        (logits, endpoints), updated = options.network.apply(
            {"params": state.params | trained, "batch_stats": state.batch_stats},
            network_input(batch, options.preprocess),
            residual_scale,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        losses = cross_entropy(logits, labels, loss.label_smoothing)
        total = jnp.mean(losses)
        if "AuxLogits" in endpoints:
            aux = cross_entropy(endpoints["AuxLogits"], labels, loss.label_smoothing)
            total += loss.aux_weight * jnp.mean(aux)
        sums = classification_sums(logits, labels, losses, jnp.ones_like(losses))
        return total, (updated["batch_stats"], sums)

    trained = trainable_params(state.params, options.optimizer)
    grads, (batch_stats, sums) = jax.grad(mean_loss, has_aux=True)(trained)
    return Gradients(grads, batch_stats, sums)


def accumulate_gradients(
    gradients: Callable[[dict, Batch, Array], Gradients],
    batch_stats: dict,
    batch: Batch,
    rng: Array,
    parts: int,
    axis_name: AxisName,
) -> Gradients:
    """Split a batch into equal parts; average their gradients and add their metric sums."""
    batches = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    rngs = jax.random.split(rng, parts)
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(gradients, batch_stats, first, rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes.grads, shapes.sums))

    def add_part(carry: tuple, part: tuple) -> tuple[tuple, None]:
        batch_stats, totals = carry
        result = gradients(batch_stats, *part)
        totals = jax.tree.map(jnp.add, totals, (result.grads, result.sums))
        return mark_varying((result.batch_stats, totals), axis_name), None

    start = mark_varying((batch_stats, zeros), axis_name)
    (batch_stats, (grads, sums)), _ = jax.lax.scan(add_part, start, (batches, rngs))
    return Gradients(jax.tree.map(lambda g: g / parts, grads), batch_stats, sums)


def _update(
    state: TrainState,
    held: dict,
    grads: dict,
    batch_stats: dict,
    optimizer: optax.GradientTransformation,
    options: TrainOptions,
) -> TrainState:
    """Apply gradients, taken at `held`, and update the averages.

    Frozen parts stay bit-identical.
    """
    config = options.optimizer
    trained = trainable_params(state.params, config)
    updates, opt_state = optimizer.update(grads, state.opt_state, held)
    params = jax.tree.map(jnp.add, trained, updates)
    ema_trained = trainable_params(state.ema_params, config)
    ema_params = update_ema(ema_trained, params, state.step, config)
    ema_batch_stats = state.ema_batch_stats
    if not options.network.bn_frozen:
        ema_batch_stats = update_ema(ema_batch_stats, batch_stats, state.step, config)
    return TrainState(
        step=state.step + 1,
        params=state.params | params,
        batch_stats=batch_stats,
        ema_params=state.ema_params | ema_params,
        ema_batch_stats=ema_batch_stats,
        opt_state=opt_state,
    )


def eval_step(
    variables: dict[str, dict],
    batch: Batch,
    numbers: Numbers,
    *,
    network: Network,
    preprocess: PreprocessSpec,
    axis_name: AxisName,
) -> Sums:
    """Return the sums of `classification_sums` over the examples with a `mask` of 1."""
    images = network_input(batch, preprocess)
    logits, _ = network.apply(variables, images, numbers.residual_scale)
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)
