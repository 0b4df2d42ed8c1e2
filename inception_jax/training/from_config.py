# SPDX-License-Identifier: Apache-2.0
"""Build the network, preprocessing and step options of a configuration."""

from functools import lru_cache

import jax
import jax.numpy as jnp

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.models.ablation import spec_for
from inception_jax.models.network import Network, create
from inception_jax.models.zoo import get_spec
from inception_jax.runtime.collectives import bn_options
from inception_jax.training.optimizer import optimizer_numbers
from inception_jax.training.stale import stale_numbers
from inception_jax.training.step import Numbers, TrainOptions


def preprocess_for(config: RunConfig) -> PreprocessSpec:
    """Return the preprocessing of a run: its settings, at its image size."""
    height, width, channels = get_spec(config.network).image_shape
    if config.image_size is not None:
        height = width = config.image_size
    shape, (low, high) = (height, width, channels), config.pixel_range
    return PreprocessSpec(
        shape, config.crop_fraction, config.aspect, config.resize, low, high
    )


def network_for(
    config: RunConfig, num_classes: int, num_devices: int | None = None
) -> Network:
    """Return the network of a run, to train on `num_devices` or, if None, for inference.

    Raises ValueError if the network does not support the images or the ablation.
    """
    options = {} if num_devices is None else bn_options(config.parallel, num_devices)
    for name in ("bn_decay", "dropout_rate"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    network = create(
        spec_for(config.network, config.ablation),
        num_classes=num_classes,
        bn_scale=config.bn_scale,
        bn_frozen=config.bn_frozen,
        aux_head=config.aux_head,
        remat=config.remat,
        fast=config.fast,
        dtype=jnp.dtype(config.dtype),
        **options,
    )
    check_input_shape(network, preprocess_for(config).image_shape, config.residual_scale)
    return network


@lru_cache(maxsize=16)  # it takes seconds for a full-size network
def check_input_shape(
    network: Network, image_shape: tuple[int, int, int], residual_scale: float | None
) -> None:
    """Raise ValueError if the network does not support the images or the scale."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    scale = None if residual_scale is None else jnp.float32(residual_scale)
    jax.eval_shape(network.init, jax.random.key(0), images, scale)


def train_options(
    config: RunConfig, network: Network, steps_per_epoch: float
) -> TrainOptions:
    """Return the static arguments of the training step."""
    return TrainOptions(
        network,
        config.optimizer,
        steps_per_epoch,
        config.loss,
        preprocess_for(config),
        config.accumulate,
        group_metrics=config.probe_every is not None,
    )


def numbers_for(config: RunConfig) -> Numbers:
    """Return the traced arguments of the steps."""
    scale = config.residual_scale
    return Numbers(
        optimizer_numbers(config.optimizer),
        None if scale is None else jnp.float32(scale),
        jnp.int32(config.seed),
        stale_numbers(config.parallel),
    )
