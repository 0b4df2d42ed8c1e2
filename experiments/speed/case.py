# SPDX-License-Identifier: Apache-2.0
"""A benchmark case, and the data and settings that all implementations share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CLASSES = 1000

# Runs that many steps and returns the result of the last one when it is ready.
RunSteps = Callable[[int], Any]


@dataclass(frozen=True)
class Optimizer:
    """The optimizer settings of a default run.

    They repeat `inception_jax.config`, because timm's process does not import JAX. A test
    compares the two.
    """

    learning_rate: float = 0.045
    rms_decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    weight_decay: float = 4e-5
    ema_decay: float = 0.9999


OPTIMIZER = Optimizer()


@dataclass(frozen=True)
class Case:
    """One network, one task and one batch shape."""

    network: str
    task: Literal["training", "inference"]
    batch: int
    image_size: int
    dtype: Literal["float32", "bfloat16"]

    def pixels(self, channels: int = 3) -> np.ndarray:
        """Return noise, uint8 `[n, h, w, c]`."""
        shape = (self.batch, self.image_size, self.image_size, channels)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def images(self, channels: int = 3) -> np.ndarray:
        """Return the same noise as float32 in [-1, 1]."""
        return self.pixels(channels).astype(np.float32) / 127.5 - 1

    def labels(self) -> np.ndarray:
        """Return random classes, int32 `[n]`."""
        return np.random.default_rng(1).integers(0, CLASSES, self.batch, np.int32)


@dataclass(frozen=True)
class BuiltCase:
    """A case that an implementation is ready to run."""

    run: RunSteps
    parameters: int  # trainable
    peak: Callable[[], int | None]  # bytes of device memory; None on a CPU
    # Multiply-accumulates of inference on one image; None if not counted.
    macs: Callable[[], int | None] = lambda: None
