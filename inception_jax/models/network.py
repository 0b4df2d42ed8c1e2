# SPDX-License-Identifier: Apache-2.0
"""The network module: any entry of the zoo, from input to output as in Figs 9 and 15."""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.models import fused, layers
from inception_jax.models.head import AuxHead, Bottleneck
from inception_jax.models.inputs import (
    ImageArray,
    ResidualScale,
    block_scales,
    check_images,
)
from inception_jax.models.layers import LayerSet, ModuleDef, frozen
from inception_jax.models.residual import activation_of, check_choice
from inception_jax.models.spec import NetworkSpec, Stage
from inception_jax.models.stem import Endpoints
from inception_jax.models.zoo import get_spec


class Network(nn.Module):
    """A network of the paper as a pure function of variables and images.

    `apply(variables, images, residual_scale, train=...)` returns `(logits, endpoints)`:
    float32 logits `[n, num_classes]`, and every intermediate result under slim's names,
    from `Conv2d_1a_3x3` to `Predictions` (softmax). With `num_classes=0` there is no
    classifier, and the first value is the features, `[n, c]`; facenet's have unit length.

    Call arguments:
      images: `[n, h, w, c]`, floating point, scaled to [-1, 1].
      residual_scale: the factor on every residual before its sum (Fig. 20), in [0, 1]: one
        number, one per grid (35x35, 17x17, 8x8) or one per block. It can be a traced value,
        so changing it does not recompile. The default is the published scales. In the
        networks as published by slim and facenet, the last block has scale 1 by default;
        one number or one per grid overrides it.
      train: use batch statistics (unless `bn_frozen`) and dropout, and add the auxiliary
        head's `AuxLogits` endpoint. Needs `mutable=["batch_stats"]`, and
        `rngs={"dropout": ...}` unless the dropout rate is 0.

    Raises ValueError for images that are too small or have a wrong number of channels; for
    a residual scale that has a wrong shape or a value outside [0, 1] (if not traced), or
    that is given to a network without residuals; and for a folded network with train=True
    or a residual scale; TypeError for images or scales that are not floating point.

    Forward-mode differentiation (`jax.jvp`, `jax.linearize`, `jax.hessian`) needs
    `fast=False`.
    """

    spec: NetworkSpec
    num_classes: int
    dropout_rate: float
    bn_decay: float
    bn_scale: bool = True  # False: no gamma, as in slim, Keras and facenet
    bn_frozen: bool = False  # use moving averages in training too; do not update them
    bn_axis_name: str | None = None  # device axis over which batch statistics are shared
    bn_axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    aux_head: bool = False
    folded: bool = False  # merged batch norms and residual scales; see `inception_jax.fold`
    # Recompute the stem and each block in the backward pass; only their outputs are stored.
    remat: bool = False
    # True: the layers of fused.py. False: those of layers.py, in stock Flax.
    fast: bool = True
    dtype: DTypeLike = jnp.float32  # of the computation; parameters stay float32

    @nn.compact
    def __call__(
        self,
        images: ImageArray,
        residual_scale: ResidualScale = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "n k"], Endpoints]:
        spec = self.spec
        check_images(images, spec)
        scales = block_scales(spec, residual_scale)
        if self.folded and (train or residual_scale is not None):
            raise ValueError(
                "a folded network is for inference at the residual scale it was folded "
                "with: leave out train and residual_scale, or use the original, unfolded "
                "network."
            )
        norm = self._norm()
        layer_set = self._layers(None if self.folded else norm)

        def call(module: nn.Module, *inputs: Array) -> Any:
            return module(*inputs, train=train)

        compute = nn.remat(call) if self.remat and train else call
        stem = spec.stem(layers=layer_set, name="Stem")
        x, endpoints = compute(stem, jnp.asarray(images, self.dtype))
        block = 0
        for stage in spec.stages:
            for name in stage.names:
                if stage.scale is None:
                    x = compute(stage.module(layers=layer_set, name=name), x)
                else:
                    x = compute(
                        _residual_block(spec, stage, name, layer_set), x, scales[block]
                    )
                    block += 1
                endpoints[name] = x
                if name == spec.aux_after:
                    endpoints["PreAuxLogits"] = x
                    if self.aux_head and (train or self.is_initializing()):
                        aux = AuxHead(
                            self.num_classes, conv=layer_set.conv, name="AuxLogits"
                        )
                        endpoints["AuxLogits"] = aux(x, train=train)
        if spec.final_conv:
            x = layer_set.conv(spec.final_conv, name="Conv2d_7b_1x1")(x, train=train)
            endpoints["Conv2d_7b_1x1"] = x
        if spec.pool_norm != "none":
            x = norm(use_running_average=not train, dtype=self.dtype, name="PrePool")(x)
            if spec.pool_norm == "before_relu":
                x = activation_of(spec.residual, layer_set)(x)
        endpoints["PrePool"] = x

        x = endpoints["global_pool"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="Dropout")(x)
        features = x = endpoints["PreLogitsFlatten"] = x
        if spec.embedding:
            bottleneck = Bottleneck(spec.embedding, norm=layer_set.norm, name="Bottleneck")
            x = endpoints["Bottleneck"] = bottleneck(x, train=train)
            features = endpoints["Embeddings"] = _unit_length(x)
        if not self.num_classes:
            return features, endpoints
        logits = endpoints["Logits"] = nn.Dense(self.num_classes, name="Logits")(x)
        endpoints["Predictions"] = nn.softmax(logits)
        return logits, endpoints

    @nn.nowrap
    def _norm(self) -> ModuleDef:
        """Batch normalisation with the settings of this network."""
        norm = partial(
            fused.BatchNorm if self.fast else layers.BatchNorm,
            momentum=self.bn_decay,
            use_scale=self.bn_scale,
            axis_name=self.bn_axis_name,
            axis_index_groups=self.bn_axis_index_groups,
        )
        return frozen(norm) if self.bn_frozen else norm

    @nn.nowrap
    def _layers(self, norm: ModuleDef | None) -> LayerSet:
        """The layers that this network's blocks are built from, with its settings."""
        layer_set, spec = fused.FUSED if self.fast else layers.PLAIN, self.spec
        return replace(
            layer_set,
            norm=norm,
            conv=partial(
                layer_set.conv, norm=norm, dtype=self.dtype, kernel_init=spec.kernel_init
            ),
            scaled_conv=partial(
                layer_set.scaled_conv, dtype=self.dtype, kernel_init=spec.residual_init
            ),
        )


def _residual_block(
    spec: NetworkSpec, stage: Stage, name: str, layers: LayerSet
) -> nn.Module:
    """Return the block `name` of `stage` with the residual options of `spec`."""
    is_before_norm = spec.pool_norm == "before_relu" and name == spec.stages[-1].names[-1]
    return stage.module(
        **({"relu": False} if is_before_norm else {}),  # the ReLU follows the norm
        is_last=name in spec.last_of_grids,
        options=spec.residual,
        layers=layers,
        name=name,
    )


def _unit_length(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    # tf.nn.l2_normalize(epsilon=1e-10), as facenet calls it.
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-10))


def create(network: str | NetworkSpec, **options: Any) -> Network:
    """Create the module of a network: `create("inception_v4", num_classes=10)`.

    `network` is a name of `list_networks()` or a spec, such as `small_image_spec(...)`.
    `options` are fields of `Network`: num_classes, dropout_rate, bn_decay, bn_scale,
    bn_frozen, bn_axis_name, bn_axis_index_groups, aux_head, folded, remat, fast, dtype.
    The others keep their published or default values.

    Raises ValueError for an unknown name, a negative number of classes, a dropout rate or
    batch-norm decay outside [0, 1), an auxiliary head without a 17x17 grid or without
    classes, or a `pool_norm` that the network's last layers do not allow.
    """
    spec = get_spec(network) if isinstance(network, str) else network
    defaults = {
        "num_classes": spec.num_classes,
        "dropout_rate": spec.dropout_rate,
        "bn_decay": spec.bn_decay,
    }
    module = Network(spec, **(defaults | options))
    if module.num_classes < 0:
        raise ValueError(
            f"num_classes must be 0 (no classifier) or more, got {module.num_classes}."
        )
    for field in ("dropout_rate", "bn_decay"):
        share = getattr(module, field)
        if not 0 <= share < 1:
            raise ValueError(f"{field} must be in [0, 1), got {share}.")
    if module.aux_head and not (spec.aux_after and module.num_classes):
        raise ValueError(
            "aux_head=True needs a network with a 17x17 grid and num_classes > 0; "
            "leave it out."
        )
    _check_pool_norm(spec)
    return module


def _check_pool_norm(spec: NetworkSpec) -> None:
    check_choice("pool_norm", spec.pool_norm, ("none", "before_relu", "after_relu"))
    if spec.pool_norm == "none":
        return
    last = spec.stages[-1]
    ends_in_convs = spec.final_conv or last.scale is None
    if spec.pool_norm == "before_relu" and ends_in_convs:
        raise ValueError(
            "pool_norm='before_relu' needs a residual sum before the pool; this network "
            "has convolutions there, with batch norm before their ReLU: use 'after_relu'."
        )
    if not ends_in_convs and not last.module().relu:
        raise ValueError(
            f"pool_norm={spec.pool_norm!r} needs a ReLU before the pool, and this network "
            "has none there; leave it out."
        )
