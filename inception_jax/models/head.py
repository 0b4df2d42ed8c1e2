# SPDX-License-Identifier: Apache-2.0
"""Heads besides the classifier: slim's auxiliary classifier and facenet's embedding."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from inception_jax.models.layers import SAME, VALID, BatchNorm, ConvBN, ModuleDef


class AuxHead(nn.Module):
    """Auxiliary classifier on the last 17x17 feature map, for training only.

    It is not in the paper; slim/nets/inception_v3.py, inception_v4.py and
    inception_resnet_v2.py have it and train it with weight 0.4. It needs a 17x17 grid,
    which images of 299 to 314 pixels give.

    Raises ValueError if the feature map is not 17x17.
    """

    num_classes: int
    conv: ModuleDef = ConvBN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n k"]:
        if x.shape[1:3] != (17, 17):
            raise ValueError(
                "aux_head=True needs a 17x17 feature map after the last Inception-B block, "
                f"got {x.shape[1]}x{x.shape[2]}: use 299x299 images or aux_head=False."
            )
        x = nn.avg_pool(x, (5, 5), strides=(3, 3), padding=VALID)
        x = self.conv(128, (1, 1), 1, SAME, name="Conv2d_1b_1x1")(x, train=train)
        x = self.conv(768, (5, 5), 1, VALID, name="Conv2d_2a_5x5")(x, train=train)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="Logits")(x)


class Bottleneck(nn.Module):
    """Face embedding of facenet: a linear layer without bias, then batch norm.

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
