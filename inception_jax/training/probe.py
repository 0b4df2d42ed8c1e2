# SPDX-License-Identifier: Apache-2.0
"""Probes of a training run: signals of the same images at regular steps."""

from functools import lru_cache, partial

import jax
from jaxtyping import Array

from inception_jax.config import PreprocessSpec
from inception_jax.models.network import Network
from inception_jax.runtime.parallel import ShardedFunction
from inception_jax.training.diagnostics import ema_gap, signals
from inception_jax.training.state import TrainState
from inception_jax.training.step import Batch, Numbers, network_input


def probe_step(
    state: TrainState,
    batch: Batch,
    numbers: Numbers,
    *,
    network: Network,
    preprocess: PreprocessSpec,
) -> dict[str, Array]:
    """Return `signals` of the raw weights on the whole batch, and `ema_gap`."""
    images = network_input(batch, preprocess)
    values = signals(network, state.raw_variables, images, numbers.residual_scale)
    return values | {"ema_gap": ema_gap(state.ema_params, state.params)}


@lru_cache(maxsize=4)  # compile once for all runs of a process
def probe_program(
    network: Network, preprocess: PreprocessSpec, devices: tuple[jax.Device, ...]
) -> ShardedFunction:
    """Return `probe_step` on all devices; the state is not donated."""
    step = partial(probe_step, network=network, preprocess=preprocess)
    return ShardedFunction(step, devices)
