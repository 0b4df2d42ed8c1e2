# SPDX-License-Identifier: Apache-2.0
"""The optimizers of section 4, as TensorFlow 1 computed them, and their schedule."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from inception_jax.config import OptimizerConfig

Params = dict


def learning_rate_at(
    step: Int[Array, ""],
    base: float | Float[Array, ""],
    config: OptimizerConfig,
    steps_per_epoch: float,
) -> Float[Array, ""]:
    """Learning rate of `step`: `base`, times 0.94 every two epochs, in stairs.

    Stairs as in slim (`exponential_decay(..., staircase=True)`); `base` may be traced.
    """
    decays = jnp.floor(step / (config.epochs_per_decay * steps_per_epoch))
    return base * config.decay_rate**decays


def make_optimizer(
    config: OptimizerConfig, learning_rate: float | Float[Array, ""]
) -> optax.GradientTransformation:
    """Weight decay, clipping, then RMSProp or momentum; `learning_rate` may be traced.

    RMSProp is TensorFlow 1's: the mean of squares starts at ones, epsilon is inside the
    root, and the learning rate inside the momentum. With epsilon = 1 all three matter:
    optax's default start of zeros is 37 % off after 50 steps. The state has no place for
    the learning rate, so one compiled step serves every schedule.
    """
    if config.kind == "rmsprop":
        descend = optax.rmsprop(
            learning_rate,
            decay=config.rms_decay,
            eps=config.epsilon,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=config.momentum,
        )
    else:
        descend = optax.sgd(learning_rate, momentum=config.momentum)
    before = []
    if config.weight_decay:
        # Added to the gradient before clipping, as slim's L2 term in the loss is.
        before.append(optax.add_decayed_weights(config.weight_decay, mask=_kernels))
    if config.clip_norm is not None:
        before.append(optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*before, descend)


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
