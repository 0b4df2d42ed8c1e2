# SPDX-License-Identifier: Apache-2.0
"""One step of training and of evaluation, as pure functions of one shard of the batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from inception_jax.config import LossConfig, OptimizerConfig, PreprocessSpec
from inception_jax.data.augment import distort_color, normalize
from inception_jax.models.network import Network
from inception_jax.runtime.parallel import AxisName, mean_over, varying
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

# image, label, and color_seed in training or mask in evaluation; [examples, ...].
Batch = dict[str, Array]


class TrainState(NamedTuple):
    """All that changes while training: arrays only, the same on every device."""

    step: Int[Array, ""]  # updates done
    params: dict
    batch_stats: dict  # moving means and variances of batch normalisation
    # Running averages, which the paper evaluates; slim averages the statistics as well.
    ema_params: dict
    ema_batch_stats: dict
    opt_state: Any

    @property
    def raw_variables(self) -> dict[str, dict]:
        """Weights as trained, for `network.apply` in evaluation."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def ema_variables(self) -> dict[str, dict]:
        """Averaged weights, for `network.apply` in evaluation."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


class Numbers(NamedTuple):
    """What a compiled step takes as values, so that sweeping it compiles nothing."""

    optimizer: OptimizerNumbers
    residual_scale: Float[Array, "..."] | None  # None: the network's own
    seed: Int[Array, ""]  # of dropout


@lru_cache(maxsize=4)  # traced and compiled once for the runs of one process
def jitted_init(network: Network, config: OptimizerConfig) -> Callable[[int], TrainState]:
    """`init_state` of a seed, jitted."""
    return jax.jit(partial(init_state, network, config))


def state_shapes(network: Network, config: OptimizerConfig) -> TrainState:
    """What `jitted_init` gives, as `jax.ShapeDtypeStruct`; nothing is compiled."""
    return jax.eval_shape(jitted_init(network, config), 0)


def init_state(
    network: Network, config: OptimizerConfig, seed: int | Int[Array, ""]
) -> TrainState:
    """A fresh state; jit it, which compiles once for all seeds."""
    images = jnp.zeros((1, *network.spec.image_shape))
    variables = network.init(jax.random.key(seed), images)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        # Copies: two names for one buffer cannot both be donated to the step.
        ema_params=jax.tree.map(jnp.copy, params),
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats),
        opt_state=make_optimizer(config, 0.0).init(trainable_params(params, config)),
    )


def network_input(batch: Batch, preprocess: PreprocessSpec) -> Float[Array, "n h w c"]:
    """Images as the network takes them: colours distorted where the batch has seeds for
    it, then from 0..255 to the range of `preprocess`."""
    images = batch["image"]
    if "color_seed" in batch:
        images = distort_color(images, batch["color_seed"])
    return normalize(images, preprocess.low, preprocess.high)


@dataclass(frozen=True)
class TrainOptions:
    """What is fixed when a training step is compiled."""

    network: Network
    optimizer: OptimizerConfig
    steps_per_epoch: float
    loss: LossConfig = field(default_factory=LossConfig)
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    accumulate: int = 1  # parts of a shard, gone through one after another
    group_metrics: bool = False  # what `signals.GROUPS` got and how far they moved


def train_step(
    state: TrainState,
    batch: Batch,
    numbers: Numbers,
    *,
    options: TrainOptions,
    axis_name: AxisName,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from this shard of the batch, averaged with the others over `axis_name`.

    `batch` has `image` `[n, h, w, c]` in uint8, `label` `[n]` and, where colours are to be
    distorted, `color_seed` `[n]`. With `accumulate`, gradients of the parts are averaged;
    each part has batch statistics of its own and moves the moving averages.

    Returns the new state and metrics: `*_sum` and `count` over the whole batch,
    `grad_norm` (before weight decay and clipping), `learning_rate` and, with
    `group_metrics`, `grad_norm/GROUP` likewise and `update_ratio/GROUP`.
    """
    rng = jax.random.fold_in(jax.random.key(numbers.seed), state.step)
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    # Gradients of params marked as varying over the axis are this shard's own, under pmap
    # and shard_map alike; of params not so marked, shard_map returns the sum over shards.
    trained = trainable_params(state.params, options.optimizer)
    gradients = partial(
        _gradients,
        varying(trained, axis_name),
        {name: x for name, x in state.params.items() if name not in trained},
        numbers.residual_scale,
        options,
    )
    if options.accumulate == 1:
        grads, batch_stats, sums = gradients(state.batch_stats, batch, rng)
    else:
        grads, batch_stats, sums = accumulate_gradients(
            gradients, state.batch_stats, batch, rng, options.accumulate, axis_name
        )
    grads, batch_stats = mean_over((grads, batch_stats), axis_name)

    rate = learning_rate_at(
        state.step, numbers.optimizer, options.optimizer, options.steps_per_epoch
    )
    optimizer = make_optimizer(options.optimizer, rate, numbers.optimizer)
    if options.network.bn_frozen:
        batch_stats = state.batch_stats  # bit by bit, which a mean over devices is not
    new_state = _updated(state, trained, grads, batch_stats, optimizer, options)
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
    metrics = jax.lax.psum(sums, axis_name) | {
        "grad_norm": jnp.sqrt(sum(squares)),
        "learning_rate": rate,
    }
    if options.group_metrics:
        after = trainable_params(new_state.params, options.optimizer)
        metrics |= _group_metrics(grads, trained, after)
    return new_state, metrics


def _group_metrics(grads: dict, before: dict, after: dict) -> dict[str, Float[Array, ""]]:
    norms, ratios = group_norms(grads), update_ratios(before, after)
    return {
        **{f"grad_norm/{group}": norm for group, norm in norms.items()},
        **{f"update_ratio/{group}": ratio for group, ratio in ratios.items()},
    }


def _updated(
    state: TrainState,
    trained: dict,
    grads: dict,
    batch_stats: dict,
    optimizer: optax.GradientTransformation,
    options: TrainOptions,
) -> TrainState:
    """The state after an update of `trained`; what is frozen stays, bit by bit."""
    config = options.optimizer
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = jax.tree.map(jnp.add, trained, updates)
    average = partial(update_ema, step=state.step, config=config)
    moving = not options.network.bn_frozen
    return TrainState(
        step=state.step + 1,
        params=state.params | params,
        batch_stats=batch_stats,
        ema_params=state.ema_params
        | average(trainable_params(state.ema_params, config), params),
        ema_batch_stats=average(state.ema_batch_stats, batch_stats)
        if moving
        else state.ema_batch_stats,
        opt_state=opt_state,
    )


def _gradients(
    trained: dict,
    frozen: dict,
    residual_scale: Float[Array, "..."] | None,
    options: TrainOptions,
    batch_stats: dict,
    batch: Batch,
    rng: Array,
) -> tuple[dict, dict, Sums]:
    """Gradients of the mean loss by `trained`, batch statistics and sums of this batch."""
    labels, loss = batch["label"], options.loss

    def mean_loss(trained: dict) -> tuple[Float[Array, ""], tuple]:
        (logits, endpoints), updated = options.network.apply(
            {"params": trained | frozen, "batch_stats": batch_stats},
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

    grads, (batch_stats, sums) = jax.grad(mean_loss, has_aux=True)(trained)
    return grads, batch_stats, sums


def accumulate_gradients(
    gradients: Callable[[dict, Batch, Array], tuple[dict, dict, Sums]],
    batch_stats: dict,
    batch: Batch,
    rng: Array,
    parts: int,
    axis_name: AxisName,
) -> tuple[dict, dict, Sums]:
    """`gradients` of one part of the batch after another: their mean, and all sums."""
    cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    rngs = jax.random.split(rng, parts)
    shapes = jax.eval_shape(gradients, batch_stats, jax.tree.map(lambda x: x[0], cut), rng)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))

    def add(carry: tuple, part: tuple) -> tuple[tuple, None]:
        batch_stats, so_far = carry
        grads, batch_stats, sums = gradients(batch_stats, *part)
        carry = batch_stats, jax.tree.map(jnp.add, so_far, (grads, sums))
        return varying(carry, axis_name), None

    start = varying((batch_stats, zeros), axis_name)
    (batch_stats, (grads, sums)), _ = jax.lax.scan(add, start, (cut, rngs))
    return jax.tree.map(lambda g: g / parts, grads), batch_stats, sums


def eval_step(
    variables: dict[str, dict],
    batch: Batch,
    numbers: Numbers,
    *,
    network: Network,
    preprocess: PreprocessSpec,
    axis_name: AxisName,
) -> Sums:
    """Sums over the examples whose `mask` is 1, with moving averages and no dropout.

    `variables` are a state's `raw_variables` or `ema_variables`. Add the results of all
    batches and divide by `count`: `metrics.means`.
    """
    images = network_input(batch, preprocess)
    logits, _ = network.apply(variables, images, numbers.residual_scale)
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)
