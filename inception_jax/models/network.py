# SPDX-License-Identifier: Apache-2.0
"""The network module: reads top to bottom like Figs 9 and 15, for any row of `SPECS`."""

import difflib
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from inception_jax.models.batch_norm import BatchNorm, FrozenBatchNorm
from inception_jax.models.head import AuxHead, Bottleneck
from inception_jax.models.inputs import (
    ResidualScale,
    Shaped,
    block_scales,
    check_images,
)
from inception_jax.models.layers import ConvBN
from inception_jax.models.residual import check_known
from inception_jax.models.spec import NetworkSpec, Stage
from inception_jax.models.stem import Endpoints
from inception_jax.models.zoo import SPECS


class Network(nn.Module):
    """A network of the paper as a pure function of variables and images.

    `apply(variables, images, residual_scale, train=...)` returns `(logits, endpoints)`:
    logits in float32, and every intermediate result under slim's names, from
    `Conv2d_1a_3x3` to `Predictions` (softmax). With `num_classes=0` there is no
    classifier and the first value is the features, `[n, c]`; for facenet these are
    unit vectors.

    Call arguments:
      images: `[n, h, w, c]`, floating, scaled to [-1, 1].
      residual_scale: factor on every residual before its sum (Fig. 20), in [0, 1]; one
        number, one per grid (35x35, 17x17, 8x8) or one per block. It may be traced, so
        one compilation serves every value. Default: the published scales. One number or
        one per grid also sets the published last block, whose default is 1.
      train: batch statistics instead of moving averages (but with `bn_frozen`), dropout,
        and the aux head's `AuxLogits` endpoint. Needs `mutable=["batch_stats"]`, and
        `rngs={"dropout": ...}` where the dropout rate is not 0.

    Raises ValueError on images that are too small or have other channels, and on a
    residual scale of a wrong shape, of a wrong range (if not traced) or for a network
    without residuals; TypeError on images or scales that are not floating. A folded
    network raises ValueError where it is given a scale or is to train.
    """

    spec: NetworkSpec
    num_classes: int
    dropout_rate: float
    bn_decay: float
    bn_scale: bool = True  # False: no gamma, as slim, Keras and facenet train
    bn_frozen: bool = False  # moving averages in training as well, and not moved
    bn_axis_name: str | None = None  # device axis over which batch statistics are shared
    bn_axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    aux_head: bool = False
    folded: bool = False  # batch norms and residual scales: see `inception_jax.fold`
    # The stem and each block are computed again for their gradients: of what is between
    # their outputs, nothing is kept from the forward pass.
    remat: bool = False
    dtype: DTypeLike = jnp.float32  # of the computation; parameters stay float32

    @nn.compact
    def __call__(
        self,
        images: Shaped,
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
                "with: leave out train and residual_scale, or take the network as it was "
                "before inception_jax.fold."
            )
        norm = partial(
            FrozenBatchNorm if self.bn_frozen else BatchNorm,
            momentum=self.bn_decay,
            use_scale=self.bn_scale,
            axis_name=self.bn_axis_name,
            axis_index_groups=self.bn_axis_index_groups,
        )
        folded = None if self.folded else norm
        conv = partial(ConvBN, norm=folded, dtype=self.dtype, kernel_init=spec.kernel_init)

        def call(module: nn.Module, *inputs: Array) -> Any:
            return module(*inputs, train=train)

        compute = nn.remat(call) if self.remat and train else call
        stem = spec.stem(conv=conv, name="Stem")
        x, endpoints = compute(stem, jnp.asarray(images, self.dtype))
        block = 0
        for stage in spec.stages:
            for name in stage.names:
                if stage.scale is None:
                    x = compute(stage.module(conv=conv, name=name), x)
                else:
                    module = _residual_block(
                        spec, stage, name, conv=conv, norm=folded, dtype=self.dtype
                    )
                    x = compute(module, x, scales[block])
                    block += 1
                endpoints[name] = x
                if name == spec.aux_after:
                    endpoints["PreAuxLogits"] = x
                    if self.aux_head and (train or self.is_initializing()):
                        aux = AuxHead(self.num_classes, conv=conv, name="AuxLogits")
                        endpoints["AuxLogits"] = aux(x, train=train)
        if spec.final_conv:
            x = conv(spec.final_conv, name="Conv2d_7b_1x1")(x, train=train)
            endpoints["Conv2d_7b_1x1"] = x
        if spec.pool_norm != "none":
            pool_norm = norm(
                use_running_average=not train, dtype=self.dtype, name="PrePool"
            )
            x = pool_norm(x)
            if spec.pool_norm == "before_relu":
                x = spec.residual.nonlinearity(x)
        endpoints["PrePool"] = x

        x = endpoints["global_pool"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="Dropout")(x)
        features = x = endpoints["PreLogitsFlatten"] = x
        if spec.embedding:
            x = Bottleneck(spec.embedding, norm=folded, name="Bottleneck")(x, train=train)
            endpoints["Bottleneck"] = x
            features = endpoints["Embeddings"] = _unit_length(x)
        if not self.num_classes:
            return features, endpoints
        logits = endpoints["Logits"] = nn.Dense(self.num_classes, name="Logits")(x)
        endpoints["Predictions"] = nn.softmax(logits)
        return logits, endpoints


def _residual_block(spec: NetworkSpec, stage: Stage, name: str, **fields: Any) -> nn.Module:
    """The block `name` of `stage` with the options of `spec`."""
    if spec.pool_norm == "before_relu" and name == spec.stages[-1].names[-1]:
        fields["relu"] = False  # it comes after the norm
    return stage.module(
        residual_init=spec.residual_init,
        options=spec.residual,
        last=name in spec.last_of_grids,
        name=name,
        **fields,
    )


def _unit_length(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    # tf.nn.l2_normalize(epsilon=1e-10), as facenet calls it.
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-10))


def list_networks() -> list[str]:
    """Names that `create` knows."""
    return list(SPECS)


def get_spec(name: str) -> NetworkSpec:
    """The row of `SPECS` called `name`; ValueError naming the closest if there is none."""
    if name not in SPECS:
        close = difflib.get_close_matches(name, SPECS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no network {name!r}; {hint}Known: {', '.join(SPECS)}.")
    return SPECS[name]


def create(network: str | NetworkSpec, **options: Any) -> Network:
    """The module of a network of the paper: `create("inception_v4", num_classes=10)`.

    `network` is a name of `list_networks()` or a spec, such as `small_image_spec(...)`.
    `options` are the fields of `Network`: num_classes, dropout_rate, bn_decay, bn_scale,
    bn_frozen, bn_axis_name, bn_axis_index_groups, aux_head, folded, remat, dtype; what is
    left out is as published.

    Raises ValueError for an unknown name, a negative number of classes, a dropout rate or
    batch-norm decay outside [0, 1), an aux head where there is no 17x17 grid to put it on
    or no classes for it, or a `pool_norm` where no ReLU or a batch norm already is.
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
    check_known("pool_norm", spec.pool_norm, ("none", "before_relu", "after_relu"))
    if spec.pool_norm == "none":
        return
    last = spec.stages[-1]
    of_boxes = spec.final_conv or last.scale is None
    if spec.pool_norm == "before_relu" and of_boxes:
        raise ValueError(
            "pool_norm='before_relu' needs a residual sum before the pool; this network "
            "has convolutions there, with batch norm before their ReLU: use 'after_relu'."
        )
    if not of_boxes and not last.module().relu:
        raise ValueError(
            f"pool_norm={spec.pool_norm!r} needs a ReLU before the pool, and this network "
            "has none there; leave it out."
        )
