# SPDX-License-Identifier: Apache-2.0
"""The optimizers and learning-rate schedule of section 4, as TensorFlow 1 computes them."""

import math
from dataclasses import asdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from inception_jax.config import OptimizerConfig

Params = dict

# Modules that output logits. All other modules are the body.
CLASSIFIERS = ("Logits", "AuxLogits")


class OptimizerNumbers(NamedTuple):
    """Fields of `OptimizerConfig` that are traced: changing them does not recompile."""

    learning_rate: Float[Array, ""]  # after warm-up and before decay
    momentum: Float[Array, ""]
    clip_norm: Float[Array, ""]  # ignored if the configuration has None
    warmup_steps: Float[Array, ""]
    warmup_rate: Float[Array, ""]
    warmup_linear: Float[Array, ""]  # 1 if warm-up is linear, else 0
    classifier_rate: Float[Array, ""]
    linear_rate: Float[Array, ""]


def optimizer_numbers(config: OptimizerConfig) -> OptimizerNumbers:
    """Return the traced values of `config`; `clip_norm` is infinite if it has None."""
    values = asdict(config) | {"warmup_linear": config.warmup == "linear"}
    if config.clip_norm is None:
        values["clip_norm"] = math.inf
    return OptimizerNumbers(*(jnp.float32(values[x]) for x in OptimizerNumbers._fields))


def learning_rate_at(
    step: Int[Array, ""],
    numbers: OptimizerNumbers,
    config: OptimizerConfig,
    steps_per_epoch: float,
) -> Float[Array, ""]:
    """Return the learning rate of `step`: warm-up, then stepwise exponential decay.

    The decay is slim's `exponential_decay(..., staircase=True)`, counted from step 0.
    """
    decays = jnp.floor(step / (config.epochs_per_decay * steps_per_epoch))
    rate = numbers.learning_rate * config.decay_rate**decays
    low, steps = numbers.warmup_rate, numbers.warmup_steps
    rising = low + (rate - low) * step / jnp.maximum(steps, 1.0)
    warm = jnp.where(numbers.warmup_linear > 0, rising, low)
    return jnp.where(step < steps, warm, rate)


def trainable_params(params: Params, config: OptimizerConfig) -> Params:
    """Return the parameters to train: only the classifiers if `body_rate` is 0."""
    if config.body_rate:
        return params
    return {name: params[name] for name in CLASSIFIERS if name in params}


def make_optimizer(
    config: OptimizerConfig,
    rate: float | Float[Array, ""],
    numbers: OptimizerNumbers | None = None,
) -> optax.GradientTransformation:
    """Return weight decay, clipping, then RMSProp or momentum with learning rate `rate`.

    `rate` and `numbers` (default: those of `config`) may be traced. RMSProp is TensorFlow
    1's: the mean of squares starts at 1, epsilon is added under the root, and the learning
    rate is applied before the momentum. With epsilon = 1, all three change the result. The
    state does not hold the learning rate, so one compiled step serves every learning rate.
    """
    if numbers is None:
        numbers = optimizer_numbers(config)
    if config.kind == "rmsprop":
        descend = optax.rmsprop(
            rate,
            decay=config.rms_decay,
            eps=config.epsilon,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=numbers.momentum,
        )
    else:
        descend = optax.sgd(rate, momentum=numbers.momentum)
    regularisation = []
    if config.weight_decay:
        # Before clipping, because slim adds the L2 term to the loss.
        regularisation.append(optax.add_decayed_weights(config.weight_decay, mask=_kernels))
    if config.clip_norm is not None:
        regularisation.append(optax.clip_by_global_norm(numbers.clip_norm))
    rates = optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(
            lambda path, x: x * _rate_of(path, numbers, config.body_rate), updates
        )
    )
    return optax.chain(*regularisation, descend, rates)


def _rate_of(
    path: tuple, numbers: OptimizerNumbers, body_rate: float
) -> float | Float[Array, ""]:
    """Return the factor on the learning rate of the parameter at `path`."""
    module = path[-2].key if len(path) > 1 else None
    if module == "Logits":
        return numbers.classifier_rate
    factor = 1.0 if path[0].key in CLASSIFIERS else body_rate
    if module != "Conv2d_1x1":
        return factor
    return numbers.linear_rate if factor == 1.0 else numbers.linear_rate * factor


def update_ema(
    ema: Params, params: Params, step: Int[Array, ""], config: OptimizerConfig
) -> Params:
    """Return the moving average after update number `step`, counted from 0.

    The decay is min(decay, (1 + step) / (10 + step)), as in TensorFlow's
    `ExponentialMovingAverage` with `num_updates`, which slim uses.
    """
    decay = jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema, step_size=1.0 - decay)


def _kernels(params: Params) -> Params:
    """Return True for kernels and False for biases and batch normalisation."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )
