# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what all sides are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CLASSES = 1000
# Section 4's RMSProp, and slim's weight decay, as in `inception_jax.config`; sides that
# cannot read that have them from here.
LEARNING_RATE, RMS_DECAY, MOMENTUM, EPSILON = 0.045, 0.9, 0.9, 1.0
WEIGHT_DECAY, EMA_DECAY = 4e-5, 0.9999

# So many steps, one after another; gives what the last one gave, when that is there.
Run = Callable[[int], Any]


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
