# SPDX-License-Identifier: Apache-2.0
"""What a network is made of: `NetworkSpec`, a row of the table in specs.py, of `Stage`s."""

from dataclasses import dataclass

import flax.linen as nn

from inception_jax.models.layers import BN_DECAY, ModuleDef

Initializer = nn.initializers.Initializer
GLOROT = nn.initializers.glorot_uniform()  # slim's default, "xavier"


@dataclass(frozen=True)
class Stage:
    """One kind of module and the names of its repetitions, which are its endpoints."""

    role: str  # the box of Fig. 9 or 15: "A", "Reduction-A", "B", "Reduction-B", "C"
    module: ModuleDef
    names: tuple[str, ...]
    figure: str
    # Default of the residual scale; None where the module is not a residual block.
    scale: float | None = None


@dataclass(frozen=True)
class NetworkSpec:
    """What distinguishes one network from another: a column of Fig. 9 or Fig. 15."""

    stem: ModuleDef
    stem_figure: str
    stages: tuple[Stage, ...]
    figure: str  # where the paper draws the whole network
    source: str  # what the numbers were taken from
    image_shape: tuple[int, int, int] = (299, 299, 3)  # height, width, channels
    min_size: int = 75  # the smallest image that leaves a 1x1 map before the pool
    num_classes: int = 1000  # 0: no classifier, the features are the output
    # Filters of a last 1x1 convolution before the pool, slim's Conv2d_7b_1x1.
    final_conv: int | None = None
    # Size of facenet's embedding, between pool and classifier.
    embedding: int | None = None
    # Share of activations dropped before the classifier; the paper keeps 0.8.
    dropout_rate: float = 0.2
    bn_decay: float = BN_DECAY
    kernel_init: Initializer = GLOROT
    # Initialiser of the linear 1x1 convolutions that end the residual blocks.
    residual_init: Initializer = GLOROT

    @property
    def default_scales(self) -> tuple[float, ...]:
        """The published residual scale of every block, from input to output."""
        return tuple(
            stage.scale
            for stage in self.stages
            if stage.scale is not None
            for _ in stage.names
        )

    @property
    def blocks_per_grid(self) -> tuple[int, ...]:
        """Residual blocks between the reductions: (10, 20, 10) for the published v2."""
        counts = [0]
        for stage in self.stages:
            if stage.scale is None:
                counts.append(0)
            else:
                counts[-1] += len(stage.names)
        return tuple(count for count in counts if count)

    @property
    def aux_after(self) -> str | None:
        """The last block on the 17x17 grid, where the aux head sits; None if none is."""
        blocks = [name for s in self.stages if s.role == "B" for name in s.names]
        return blocks[-1] if blocks else None
