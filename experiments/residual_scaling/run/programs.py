# SPDX-License-Identifier: Apache-2.0
"""Compiled programs: one set for each shape of runs, with everything else as values."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.residual_scaling.design.runs import FULL_WIDTHS, Run
from experiments.residual_scaling.run.generated import GENERATED, open_generated
from inception_jax.config import OptimizerConfig, ParallelConfig, PreprocessSpec
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.models.ablation import ablated
from inception_jax.models.network import Network, create
from inception_jax.models.small_images import small_image_spec
from inception_jax.models.spec import NetworkSpec
from inception_jax.models.width import with_width
from inception_jax.models.zoo import get_spec
from inception_jax.runtime.collectives import DATA_AXIS
from inception_jax.runtime.parallel import PerDevice
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import classification_sums
from inception_jax.training.optimizer import optimizer_numbers
from inception_jax.training.probe import probe_step
from inception_jax.training.stale import make_copies, stale_numbers
from inception_jax.training.state import TrainState, init_state
from inception_jax.training.step import (
    Batch,
    Numbers,
    TrainOptions,
    network_input,
    train_step,
)

# The paper's optimizer at a constant learning rate, because no run is as long as the two
# epochs of ImageNet after which the paper lowers it. Runs set their own weight decay. With
# an infinite norm nothing is clipped, but the norm is an argument of the program.
OPTIMIZER = OptimizerConfig(weight_decay=0.0, decay_rate=1.0, clip_norm=float("inf"))
GREY = ("digits", "endless")  # data sets with a single channel


class Values(NamedTuple):
    """The values of a run that the programs take as arguments."""

    numbers: Numbers
    init_gain: Float[Array, ""]
    learned_scale_init: Float[Array, ""]


def spec_of(run: Run) -> NetworkSpec:
    """Return the network of a run, with its initialiser."""
    options: dict[str, Any] = {"width": run.width, "depth": run.depth, "head": run.head}
    options["residual_init"] = run.init
    if run.network in FULL_WIDTHS:
        full = get_spec(run.network)
        spec = replace(
            with_width(full, run.width / FULL_WIDTHS[run.network]),
            image_shape=(run.image_size, run.image_size, 3),
            dropout_rate=0.0,
            bn_decay=0.9,  # as in the small networks
        )
        if not spec.default_scales:
            return spec
    else:
        channels = 1 if run.data in GREY else 3
        spec = small_image_spec(**options, block=run.block, image_shape=(8, 8, channels))
    if run.block == "concat":
        return spec
    return ablated(
        spec,
        learned_scale=run.learned_scale,
        residual_norm=run.residual_norm,
        activation=run.activation,
        pool_norm=run.pool_norm,
        residual_init=run.init,
        kernel_init=None if run.kernel_init == "published" else run.kernel_init,
    )


def open_data(run: Run, split: str, data_dir: str | None) -> Source:
    """Open the examples on which a run is trained or, for `eval`, tested."""
    if run.data in GENERATED:
        return open_generated(run.data, split, spec_of(run).image_shape)
    return open_source(run.data, split, data_dir)


def values_of(run: Run) -> Values:
    """Return the values of a run."""
    names = ("learning_rate", "momentum", "warmup", "warmup_steps", "warmup_rate")
    names += ("classifier_rate", "linear_rate")
    names += () if run.clip_norm is None else ("clip_norm",)
    config = replace(OPTIMIZER, **{name: getattr(run, name) for name in names})
    published = spec_of(run).default_scales
    scales = published if run.scale is None else [run.scale] * len(published)
    return Values(
        Numbers(
            optimizer_numbers(config),
            jnp.array(scales, jnp.float32) if published else None,
            jnp.int32(run.seed),
            stale_numbers(
                ParallelConfig(stale_replicas=run.replicas, stale_stagger=run.stagger)
            ),
        ),
        jnp.float32(run.init_gain),
        jnp.float32(run.learned_scale_init),
    )


class Programs:
    """Compiled functions of the values and states of several runs, one on each device.

    `init(run)(values)`, `step(state, batch, numbers)`, `probe(state, batch, numbers)` and
    `evaluate(variables, batch, numbers)`.
    """

    def __init__(
        self, shape: Run, num_train: int, num_classes: int, devices: Sequence[jax.Device]
    ) -> None:
        self.shape, self.devices = shape, devices
        spec = spec_of(shape)
        # Batch normalisation without gamma, as in slim.
        self.options = {"bn_scale": False, "num_classes": num_classes}
        self.options["dtype"] = jnp.dtype(shape.dtype)
        network = create(spec, **self.options)
        # The whole image, without a central crop.
        self.preprocess = PreprocessSpec(spec.image_shape, crop_fraction=1.0)
        self.optimizer = replace(
            OPTIMIZER, kind=shape.optimizer, weight_decay=shape.weight_decay
        )
        options = TrainOptions(
            network,
            self.optimizer,
            num_train / shape.batch_size,
            preprocess=self.preprocess,
            group_metrics=True,
        )
        step = partial(train_step, options=options, axis_name=DATA_AXIS)
        self.step = PerDevice(step, devices, donate=True)
        fixed = {"network": network, "preprocess": self.preprocess}
        self.probe = PerDevice(partial(_probe, **fixed), devices)
        self.evaluate = PerDevice(partial(_evaluate, **fixed), devices)
        self._init: dict[tuple[str, str], PerDevice] = {}

    def init(self, run: Run) -> PerDevice:
        """Return the function that initialises states with the initialisers of `run`."""
        initializers = run.init, run.kernel_init
        if initializers not in self._init:
            shape = replace(self.shape, init=run.init, kernel_init=run.kernel_init)
            network = create(spec_of(shape), **self.options)
            init = partial(
                _init,
                network=network,
                optimizer=self.optimizer,
                replicas=self.shape.replicas,
            )
            self._init[initializers] = PerDevice(init, self.devices)
        return self._init[initializers]


def _init(
    values: Values, *, network: Network, optimizer: OptimizerConfig, replicas: int = 1
) -> TrainState:
    state = init_state(network, optimizer, values.numbers.seed)

    def with_values(path: tuple, x: Array) -> Array:
        *_, module, name = (key.key for key in path)
        if name == "learned_scale":
            return jnp.full_like(x, values.learned_scale_init)
        linear = module == "Conv2d_1x1" and name == "kernel"
        return x * values.init_gain if linear else x

    params = jax.tree_util.tree_map_with_path(with_values, state.params)
    return state._replace(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        replicas=make_copies(params, replicas),
    )


def _probe(
    state: TrainState, batch: Batch, numbers: Numbers, **options: Any
) -> dict[str, Array]:
    """Return the signals of `probe_step`, the loss and the accuracy on `batch`."""
    signals = probe_step(state, batch, numbers, **options)
    logits, labels = signals["logits"], batch["label"]
    return signals | {
        "loss": jnp.mean(cross_entropy(logits, labels)),
        "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels),
    }


def _evaluate(
    variables: dict[str, dict],
    batch: Batch,
    numbers: Numbers,
    *,
    network: Network,
    preprocess: PreprocessSpec,
) -> dict[str, Array]:
    """Return `classification_sums` and, as `alive`, the number of images by channel.

    An image counts for a channel before the pool that is not zero at all of its positions.
    """
    images, labels, mask = network_input(batch, preprocess), batch["label"], batch["mask"]
    logits, endpoints = network.apply(variables, images, numbers.residual_scale)
    sums = classification_sums(logits, labels, cross_entropy(logits, labels), mask)
    is_alive = jnp.any(endpoints["PrePool"] != 0, axis=(1, 2))
    return sums | {"alive": jnp.sum(is_alive * mask[:, None], axis=0)}
