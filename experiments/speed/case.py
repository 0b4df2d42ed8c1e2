# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what all sides are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CLASSES = 1000

# So many steps, one after another; gives what the last one gave, when that is there.
Run = Callable[[int], Any]


@dataclass(frozen=True)
class Optimizer:
    """What our runs train with by default; other libraries' processes import no JAX, so it
    is not read from `inception_jax.config`, but a test compares them."""

    learning_rate: float = 0.045
    rms_decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    weight_decay: float = 4e-5
    ema_decay: float = 0.9999


OPTIMIZER = Optimizer()


@dataclass(frozen=True)
class Case:
    """One network doing one thing with one batch after another."""

    network: str
    task: Literal["training", "inference"]
    batch: int
    image_size: int
    dtype: Literal["float32", "bfloat16"]

    def __str__(self) -> str:
        return f"{self.network} {self.task}, batch {self.batch}"

    def pixels(self, channels: int = 3) -> np.ndarray:
        """Noise, `[n, h, w, c]` in uint8."""
        shape = (self.batch, self.image_size, self.image_size, channels)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def images(self, channels: int = 3) -> np.ndarray:
        """The same in float32, in [-1, 1]."""
        return self.pixels(channels).astype(np.float32) / 127.5 - 1

    def labels(self) -> np.ndarray:
        """Classes, `[n]` in int32."""
        return np.random.default_rng(1).integers(0, CLASSES, self.batch, np.int32)


@dataclass(frozen=True)
class Built:
    """A side that is ready for a case."""

    run: Run
    parameters: int  # trained ones
    peak: Callable[[], int | None]  # bytes of device memory; None: it has none of its own
    # Multiply-accumulates of the inference of an image; None: not counted.
    macs: Callable[[], int | None] = lambda: None
