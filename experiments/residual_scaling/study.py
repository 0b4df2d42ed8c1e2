# SPDX-License-Identifier: Apache-2.0
"""Which arms are trained, and everything that defines them."""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from inception_jax.models.schema import NetworkSpec
from inception_jax.models.specs import small_image_spec

# Section 4. Any other rate is an accelerator: it brings into some ten steps what the
# paper saw "after a few tens of thousands of iterations".
PAPER_LEARNING_RATE = 0.045
MAX_SCALES = 7
PAPER_WIDTH = 1000  # "if the number of filters exceeded 1000" (section 3.3)


@dataclass(frozen=True)
class Arm:
    """One training run of the study."""

    width: int  # channels of the residual stream, the layer before the average pool
    scale: float  # factor on every residual; 1 is the unscaled network
    learning_rate: float
    seed: int  # of the initial weights and of the order of the data

    def __str__(self) -> str:
        return (
            f"width {self.width}, scale {self.scale:g}, "
            f"learning rate {self.learning_rate:g}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Study:
    """Train residual networks of several widths with and without scaled residuals."""

    # Channels of the residual stream; the paper's claim begins above 1000.
    widths: tuple[int, ...] = (64, 256, 1024)
    # Factors on the residuals: 1 is unscaled, the paper uses 0.1 to 0.3.
    scales: tuple[float, ...] = (1.0, 0.3, 0.1)
    # 0.045 is the paper's; higher ones are accelerators.
    learning_rates: tuple[float, ...] = (PAPER_LEARNING_RATE, 0.2)
    # Seeds per arm, the same for all: 0, 1, 2, ...
    seeds: int = 5
    # Updates per arm; an epoch of the digits has 46.
    steps: int = 80
    # Residual blocks.
    depth: int = 10
    # Examples per update, over all devices.
    batch_size: int = 32
    # Updates between two looks at the layer before the average pool.
    probe_every: int = 10
    # Folder for everything this writes; default: runs/residual_scaling, with --quick
    # runs/residual_scaling_quick.
    workdir: Path | None = None
    # Folder of prepared data sets; default: TFDS's own.
    data_dir: str | None = None
    # Two widths, two scales, one learning rate, two seeds: about a minute, no verdict.
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "scales", "learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different numbers, got {values}.")
        for name in ("seeds", "steps", "depth", "batch_size", "probe_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if min(self.widths) < 1:
            raise ValueError(f"widths must be 1 or more, got {self.widths}.")
        if len(self.scales) > MAX_SCALES:
            raise ValueError(
                f"scales must be {MAX_SCALES} or fewer, to be told apart in the figure, "
                f"got {len(self.scales)}."
            )
        if not all(0 <= scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must lie in [0, 1], got {self.scales}.")
        if not all(0 < rate < float("inf") for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be > 0, got {self.learning_rates}.")

    @property
    def arms(self) -> list[Arm]:
        """All arms, seed by seed: what is finished early is a smaller complete study."""
        return [
            Arm(width, scale, rate, seed)
            for seed, rate, width, scale in product(
                range(self.seeds), self.learning_rates, self.widths, self.scales
            )
        ]

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        name = "residual_scaling_quick" if self.quick else "residual_scaling"
        return self.workdir or Path("runs") / name

    @property
    def settings(self) -> dict[str, Any]:
        """The part of the plan that all its arms share."""
        shared = ("steps", "depth", "batch_size", "probe_every")
        return {key: value for key, value in asdict(self).items() if key in shared}

    def spec(self, width: int) -> NetworkSpec:
        """The network of an arm: `depth` Inception-ResNet-C blocks, `width` channels."""
        return small_image_spec(width=width, depth=self.depth)


QUICK = Study(
    widths=(64, 256),
    scales=(1.0, 0.1),
    learning_rates=(0.2,),
    seeds=2,
    steps=60,
    quick=True,
)
