# SPDX-License-Identifier: Apache-2.0
"""Probes of a training run: signals of the same images at regular steps."""

from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Array, UInt8

from inception_jax.config import PreprocessSpec
from inception_jax.models.network import Network
from inception_jax.runtime.parallel import ShardedFunction
from inception_jax.training.diagnostics import ema_gap, signals
from inception_jax.training.setup import Setup
from inception_jax.training.step import Batch, Numbers, TrainState, network_input


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


class Probe:
    """The signals of a state on fixed images; `images` are this process's part of them."""

    def __init__(self, setup: Setup, images: UInt8[np.ndarray, "n h w c"]) -> None:
        devices = tuple(setup.devices)
        self._step = probe_program(setup.network, setup.preprocess, devices)
        self._batch = self._step.place({"image": images})

    def __call__(self, state: TrainState, numbers: Numbers) -> dict[str, np.ndarray]:
        """Return the signals of `state`, which is not donated."""
        return jax.device_get(self._step(state, self._batch, numbers))


@lru_cache(maxsize=4)  # compile once for all runs of a process
def probe_program(
    network: Network, preprocess: PreprocessSpec, devices: tuple[jax.Device, ...]
) -> ShardedFunction:
    step = partial(probe_step, network=network, preprocess=preprocess)
    return ShardedFunction(step, devices)
