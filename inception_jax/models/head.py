# SPDX-License-Identifier: Apache-2.0
"""What follows the blocks besides the classifier: slim's aux head, facenet's bottleneck."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from inception_jax.models.batch_norm import BatchNorm
from inception_jax.models.layers import (
    SAME,
    VALID,
    ConvBN,
    ModuleDef,
)


class AuxHead(nn.Module):
    """Auxiliary classifier on the last 17x17 map, for training only.

    Not in the paper; slim/nets/inception_v3.py, inception_v4.py and inception_resnet_v2.py
    have it and train with weight 0.4. Parameters fit one input size alone: 299 pixels.
    Raises ValueError if the map is not 17x17.
    """

    num_classes: int
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n k"]:
        if x.shape[1:3] != (17, 17):
            raise ValueError(
                f"aux_head=True needs a 17x17 map after the last Inception-B block, got "
                f"{x.shape[1]}x{x.shape[2]}: use 299x299 images or aux_head=False."
            )
        x = nn.avg_pool(x, (5, 5), strides=(3, 3), padding=VALID)
        x = self.conv(128, (1, 1), 1, SAME, name="Conv2d_1b_1x1")(x, train=train)
        x = self.conv(768, (5, 5), 1, VALID, name="Conv2d_2a_5x5")(x, train=train)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="Logits")(x)


class Bottleneck(nn.Module):
    """Face embedding of facenet: linear layer without bias, batch normalisation.

    Source: davidsandberg/facenet, src/models/inception_resnet_v1.py.
    """

    features: int
    norm: ModuleDef | None = BatchNorm  # None: folded into the layer, which has a bias

    @nn.compact
    def __call__(
        self, x: Float[Array, "n c"], *, train: bool = False
    ) -> Float[Array, "n d"]:
        x = nn.Dense(self.features, use_bias=self.norm is None, name="fc")(x)
        if not self.norm:
            return x
        return self.norm(use_running_average=not train, name="bn")(x)
