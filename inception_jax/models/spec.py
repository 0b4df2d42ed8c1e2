# SPDX-License-Identifier: Apache-2.0
"""The description of a network as data: a `NetworkSpec` of `Stage`s; zoo.py lists them."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import flax.linen as nn

from inception_jax.models.layers import BN_DECAY, Branches, ModuleDef
from inception_jax.models.residual import PAPER, ResidualOptions

Initializer = nn.initializers.Initializer
GLOROT = nn.initializers.glorot_uniform()  # slim's default, "xavier"
# slim/nets/inception_utils.py: variance_scaling_initializer(), factor 2, fan in.
HE = nn.initializers.he_normal()
INITIALIZERS: dict[str, Initializer] = {
    "glorot": GLOROT,
    "he": HE,
    "lecun": nn.initializers.lecun_normal(),
    # In code of the time (tensorflow/models' inception_model.py and facenet's
    # inception_resnet_v1.py): a normal distribution of stddev 0.1, truncated at two
    # standard deviations.
    "stddev_0.1": nn.initializers.truncated_normal(0.1),
    "zeros": nn.initializers.zeros,
}

# Residual scales on the 35x35, 17x17 and 8x8 grid: slim/nets/inception_resnet_v2.py and
# facenet's inception_resnet_v1.py. The paper says "between 0.1 and 0.3".
SCALE_A, SCALE_B, SCALE_C = 0.17, 0.10, 0.20


@dataclass(frozen=True)
class Stage:
    """One kind of module, repeated; the names of the repetitions are its endpoints."""

    role: str  # the box of Fig. 9 or 15: "A", "Reduction-A", "B", "Reduction-B", "C"
    module: ModuleDef
    names: tuple[str, ...]
    figure: str
    # Default residual scale; None if the module is not a residual block.
    scale: float | None = None


def residual_stage(
    role: str,
    block: ModuleDef,
    branches: Branches,
    figure: str,
    names: tuple[str, ...],
    scale: float,
) -> Stage:
    """Return a stage of residual blocks with the given branches."""
    return Stage(role, partial(block, branches=branches), names, figure, scale)


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    """Return slim's names of repeated blocks: `block35_1`, `block35_2`, and so on."""
    return tuple(f"{prefix}_{i + 1}" for i in range(count))


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that distinguishes one network from another: a column of Fig. 9 or 15."""

    stem: ModuleDef
    stem_figure: str
    stages: tuple[Stage, ...]
    figure: str  # where the paper draws the whole network
    source: str  # where the numbers come from
    image_shape: tuple[int, int, int] = (299, 299, 3)  # height, width, channels
    min_size: int = 75  # the smallest image that leaves a 1x1 grid before the pool
    num_classes: int = 1000  # 0: no classifier, the features are the output
    # Filters of a 1x1 convolution before the pool, slim's Conv2d_7b_1x1.
    final_conv: int | None = None
    # Size of facenet's embedding, between pool and classifier.
    embedding: int | None = None
    # Share of activations dropped before the classifier; the paper keeps 0.8.
    dropout_rate: float = 0.2
    bn_decay: float = BN_DECAY
    kernel_init: Initializer = GLOROT
    # Initialiser of the linear 1x1 convolutions that end the residual blocks.
    residual_init: Initializer = GLOROT
    # Options of every residual block; the defaults are the paper's block.
    residual: ResidualOptions = PAPER
    # Extra batch normalisation before the average pool, before or after the last ReLU;
    # section 3.3 tried it without success.
    pool_norm: Literal["none", "before_relu", "after_relu"] = "none"

    @property
    def default_scales(self) -> tuple[float, ...]:
        """Published residual scale of each block, from input to output."""
        return tuple(
            stage.scale
            for stage in self.stages
            if stage.scale is not None
            for _ in stage.names
        )

    @property
    def blocks_per_grid(self) -> tuple[int, ...]:
        """Number of residual blocks on each grid: (10, 20, 10) for the published v2."""
        counts = [0]
        for stage in self.stages:
            if stage.scale is None:
                counts.append(0)
            else:
                counts[-1] += len(stage.names)
        return tuple(count for count in counts if count)

    @property
    def last_of_grids(self) -> frozenset[str]:
        """Names of the residual blocks that are followed by a reduction or the head."""
        blocks = [(name, s.scale is not None) for s in self.stages for name in s.names]
        return frozenset(
            name
            for (name, residual), (_, residual_follows) in pairwise([*blocks, ("", False)])
            if residual and not residual_follows
        )

    @property
    def aux_after(self) -> str | None:
        """Name of the last block on the 17x17 grid, which the auxiliary head reads."""
        blocks = [name for s in self.stages if s.role == "B" for name in s.names]
        return blocks[-1] if blocks else None
