# SPDX-License-Identifier: Apache-2.0
"""The compiled functions of one shape of arms; everything else about an arm is a value."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.prototypes import open_prototypes
from inception_jax.config import OptimizerConfig, PreprocessSpec
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.models.ablation import ablated
from inception_jax.models.network import Network, create
from inception_jax.models.small_images import paper_width_spec, small_image_spec
from inception_jax.models.spec import NetworkSpec
from inception_jax.runtime.parallel import DATA_AXIS, ArmParallel
from inception_jax.training.losses import cross_entropy
from inception_jax.training.optimizer import optimizer_numbers
from inception_jax.training.probe import probe_step
from inception_jax.training.step import (
    Batch,
    Numbers,
    TrainOptions,
    TrainState,
    eval_step,
    init_state,
    train_step,
)

# The paper's optimizer, without weight decay: the question is what the residuals do. The
# learning rate stays, since no arm is as long as the two epochs of ImageNet after which
# the paper lowers it. Infinity clips nothing, and makes the norm a value.
OPTIMIZER = OptimizerConfig(weight_decay=0.0, decay_rate=1.0, clip_norm=float("inf"))
CLASSES = {"C": 100, "BC": 1000}  # of the prototypes
EXAMPLES = {"C": 5_000, "BC": 20_000}


class Values(NamedTuple):
    """What the programs take of an arm as values."""

    numbers: Numbers
    init_gain: Float[Array, ""]
    learned_scale_init: Float[Array, ""]


def spec_of(arm: Arm) -> NetworkSpec:
    """The network of an arm, the initialiser included."""
    options = {"width": arm.width, "depth": arm.depth, "head": arm.head}
    if arm.network == "BC":
        spec = paper_width_spec(**options, residual_init=arm.init)
    else:
        spec = small_image_spec(
            **options,
            block=arm.block,
            image_shape=(8, 8, 1 if arm.data == "digits" else 3),
            residual_init=arm.init,
        )
    if arm.block == "concat":
        return spec
    return ablated(
        spec,
        learned_scale=arm.learned_scale,
        residual_norm=arm.residual_norm,
        activation=arm.activation,
        pool_norm=arm.pool_norm,
    )


def open_data(arm: Arm, split: str, data_dir: str | None) -> Source:
    """The examples an arm is trained on or, for `eval`, tested on."""
    if arm.data == "digits":
        return open_source("digits", split, data_dir)
    shape = spec_of(arm).image_shape
    return open_prototypes(split, shape, CLASSES[arm.network], EXAMPLES[arm.network])


def values_of(arm: Arm) -> Values:
    """The values of an arm."""
    config = replace(
        OPTIMIZER,
        **{
            name: getattr(arm, name)
            for name in ("learning_rate", "momentum", "warmup", "warmup_steps")
        },
        **{n: getattr(arm, n) for n in ("warmup_rate", "classifier_rate", "linear_rate")},
        **({} if arm.clip_norm is None else {"clip_norm": arm.clip_norm}),
    )
    published = spec_of(arm).default_scales
    scales = published if arm.scale is None else [arm.scale] * len(published)
    return Values(
        Numbers(
            optimizer_numbers(config),
            jnp.array(scales, jnp.float32) if published else None,
            jnp.int32(arm.seed),
        ),
        jnp.float32(arm.init_gain),
        jnp.float32(arm.learned_scale_init),
    )


class Programs:
    """Functions of `Values` and states of several arms at once, one on each device.

    `init(initialiser)(values)`, `step(state, batch, numbers)`, `look(state, batch,
    numbers)` and `evaluate(variables, batch, numbers)`.
    """

    def __init__(
        self, shape: Arm, num_train: int, num_classes: int, devices: Sequence[jax.Device]
    ) -> None:
        self.shape, self.devices = shape, devices
        spec = spec_of(shape)
        # Without gamma, as slim trains.
        self.options: dict[str, Any] = {
            "bn_scale": False,
            "num_classes": num_classes,
            "dtype": jnp.dtype(shape.dtype),
        }
        network = create(spec, **self.options)
        # The digits whole and in their own size.
        self.preprocess = PreprocessSpec(spec.image_shape, crop_fraction=1.0)
        self.optimizer = replace(OPTIMIZER, kind=shape.optimizer)
        options = TrainOptions(
            network,
            self.optimizer,
            num_train / shape.batch_size,
            preprocess=self.preprocess,
            group_metrics=True,
        )
        step = partial(train_step, options=options, axis_name=DATA_AXIS)
        self.step = ArmParallel(step, devices, donate=True)
        look = partial(_look, network=network, preprocess=self.preprocess)
        self.look = ArmParallel(look, devices)
        evaluate = partial(
            eval_step, network=network, preprocess=self.preprocess, axis_name=DATA_AXIS
        )
        self.evaluate = ArmParallel(evaluate, devices)
        self._init: dict[str, ArmParallel] = {}

    def init(self, initializer: str) -> ArmParallel:
        """The function that makes states with this initialiser of the linear 1x1."""
        if initializer not in self._init:
            spec = spec_of(replace(self.shape, init=initializer))
            network = create(spec, **self.options)
            init = partial(_init, network=network, optimizer=self.optimizer)
            self._init[initializer] = ArmParallel(init, self.devices)
        return self._init[initializer]


def _init(values: Values, *, network: Network, optimizer: OptimizerConfig) -> TrainState:
    state = init_state(network, optimizer, values.numbers.seed)

    def changed(path: tuple, x: Array) -> Array:
        *_, module, name = (key.key for key in path)
        if name == "learned_scale":
            return jnp.full_like(x, values.learned_scale_init)
        linear = module == "Conv2d_1x1" and name == "kernel"
        return x * values.init_gain if linear else x

    params = jax.tree_util.tree_map_with_path(changed, state.params)
    return state._replace(params=params, ema_params=jax.tree.map(jnp.copy, params))


def _look(
    state: TrainState,
    batch: Batch,
    numbers: Numbers,
    *,
    network: Network,
    preprocess: PreprocessSpec,
) -> dict[str, Array]:
    """The signals on the images of `batch`, with their loss and accuracy."""
    found = probe_step(state, batch, numbers, network=network, preprocess=preprocess)
    logits, labels = found["logits"], batch["label"]
    return found | {
        "loss": jnp.mean(cross_entropy(logits, labels)),
        "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels),
    }
