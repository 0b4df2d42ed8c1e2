# SPDX-License-Identifier: Apache-2.0
"""The optimizers of section 4, as TensorFlow 1 computed them, and their schedule."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from inception_jax.config import OptimizerConfig

Params = dict

# Modules that end in a layer of one number for each class; the rest is the body.
CLASSIFIERS = ("Logits", "AuxLogits")


class OptimizerNumbers(NamedTuple):
    """What a compiled step takes as values, so that sweeping it compiles nothing.

    The fields of `OptimizerConfig` of the same names; `warmup_linear` is 1 or 0.
    """

    learning_rate: Float[Array, ""]  # before warm-up and decay
    momentum: Float[Array, ""]
    clip_norm: Float[Array, ""]  # used where the configuration has one; inf clips nothing
    warmup_steps: Float[Array, ""]
    warmup_rate: Float[Array, ""]
    warmup_linear: Float[Array, ""]
    classifier_rate: Float[Array, ""]
    linear_rate: Float[Array, ""]


def optimizer_numbers(config: OptimizerConfig) -> OptimizerNumbers:
    """The numbers that `config` says."""
    values = {
        name: getattr(config, name)
        for name in OptimizerNumbers._fields
        if name != "warmup_linear"
    }
    values["warmup_linear"] = config.warmup == "linear"
    if config.clip_norm is None:
        values["clip_norm"] = math.inf
    return OptimizerNumbers(**{name: jnp.float32(x) for name, x in values.items()})


def learning_rate_at(
    step: Int[Array, ""],
    numbers: OptimizerNumbers,
    config: OptimizerConfig,
    steps_per_epoch: float,
) -> Float[Array, ""]:
    """Learning rate of `step`: a warm-up, then times 0.94 every two epochs, in stairs.

    Stairs as in slim (`exponential_decay(..., staircase=True)`), counted from step 0.
    """
    decays = jnp.floor(step / (config.epochs_per_decay * steps_per_epoch))
    rate = numbers.learning_rate * config.decay_rate**decays
    low, steps = numbers.warmup_rate, numbers.warmup_steps
    rising = low + (rate - low) * step / jnp.maximum(steps, 1.0)
    warm = jnp.where(numbers.warmup_linear > 0, rising, low)
    return jnp.where(step < steps, warm, rate)


def trainable_params(params: Params, config: OptimizerConfig) -> Params:
    """The parameters that change: with a `body_rate` of 0 those of the classifiers.

    Only they have gradients and a place in the optimizer's state.
    """
    if config.body_rate:
        return params
    return {name: params[name] for name in CLASSIFIERS if name in params}


def make_optimizer(
    config: OptimizerConfig,
    rate: float | Float[Array, ""],
    numbers: OptimizerNumbers | None = None,
) -> optax.GradientTransformation:
    """Weight decay, clipping, then RMSProp or momentum at the learning rate `rate`.

    `rate` and `numbers`, by default those of `config`, may be traced. RMSProp is
    TensorFlow 1's: the mean of squares starts at ones, epsilon is inside the root, and the
    learning rate inside the momentum. With epsilon = 1 all three matter: optax's default
    start of zeros is 37 % off after 50 steps. The state has no place for the learning
    rate, so one compiled step serves every schedule.
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
    before = []
    if config.weight_decay:
        # Added to the gradient before clipping, as slim's L2 term in the loss is.
        before.append(optax.add_decayed_weights(config.weight_decay, mask=_kernels))
    if config.clip_norm is not None:
        before.append(optax.clip_by_global_norm(numbers.clip_norm))
    rates = optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(
            lambda path, x: x * _rate_of(path, numbers, config.body_rate), updates
        )
    )
    return optax.chain(*before, descend, rates)


def _rate_of(
    path: tuple, numbers: OptimizerNumbers, body_rate: float
) -> float | Float[Array, ""]:
    """Factor on the learning rate of the parameter at `path`."""
    module = path[-2].key if len(path) > 1 else None
    if module == "Logits":
        return numbers.classifier_rate
    own = 1.0 if path[0].key in CLASSIFIERS else body_rate
    if module != "Conv2d_1x1":
        return own
    return numbers.linear_rate if own == 1.0 else numbers.linear_rate * own


def update_ema(
    ema: Params, params: Params, step: Int[Array, ""], config: OptimizerConfig
) -> Params:
    """The running average of the parameters after `step` updates (from 0).

    The decay grows as min(decay, (1 + step) / (10 + step)), TensorFlow's rule when it is
    given the step, as slim does; so the start of training is forgotten soon.
    """
    decay = jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema, step_size=1.0 - decay)


def _kernels(params: Params) -> Params:
    """True for kernels, False for biases and batch normalisation."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )
