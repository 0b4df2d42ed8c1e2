# SPDX-License-Identifier: Apache-2.0
"""Folding of batch norm and scales into the convolutions of a network, for inference."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from inception_jax.models.inputs import ResidualScale, block_scales
from inception_jax.models.layers import BN_EPSILON
from inception_jax.models.spec import NetworkSpec
from inception_jax.weights.model import Model, check_variables
from inception_jax.weights.model_folder import Variables


def fold(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """Return a smaller model for inference, with the same outputs up to rounding.

    >>> model, variables = inception_jax.fold(*inception_jax.load("models/v4"))

    Each batch norm, with its moving averages, is folded into the convolution or linear
    layer before it, as are a residual's norm, learned scale and residual scale. Only the
    extra batch norm of the ablation `pool_norm` remains, because no linear layer comes
    directly before it. The auxiliary head is removed.

    Raises ValueError if the model is already folded or cannot use the variables.
    """
    if model.folded:
        raise ValueError(
            "the model is already folded; call fold with the model and variables from load."
        )
    check_variables(model, variables, "these variables")
    card = replace(model.card, aux_head=False)
    spec, scale = model.network.spec, model.card.residual_scale
    return Model(card, folded=True), fold_variables(spec, variables, scale)


def fold_variables(
    spec: NetworkSpec, variables: Variables, residual_scale: ResidualScale = None
) -> Variables:
    """Convert variables of `create(spec)` to those of `create(spec, folded=True)`."""
    params, stats = variables["params"], variables["batch_stats"]
    blocks = [name for s in spec.stages if s.scale is not None for name in s.names]
    scales = np.asarray(block_scales(spec, residual_scale), np.float64)
    scale_of = dict(zip(blocks, scales, strict=True))
    folded = {
        "params": {
            name: _fold_module(module, stats.get(name, {}), scale_of.get(name, 1.0))
            for name, module in params.items()
            if name != "AuxLogits"
        }
    }
    if "PrePool" in stats:
        folded["batch_stats"] = {"PrePool": stats["PrePool"]}
    return jax.tree.map(jnp.asarray, folded)


def _fold_module(params: dict, stats: dict, scale: float = 1.0) -> dict:
    """Fold each linear layer of a module; `scale` applies to those outside submodules."""
    folded = {}
    for name, value in params.items():
        if name in ("bn", "learned_scale"):
            continue  # folded into the layer beside it
        if not isinstance(value, dict):
            folded[name] = value
        elif "kernel" in value:
            folded[name] = _fold_linear(value, params, stats, scale)
        else:
            folded[name] = _fold_module(value, stats.get(name, {}))
    return folded


def _fold_linear(layer: dict, module: dict, stats: dict, scale: float) -> dict:
    """Fold the batch norm and the scales of a module into its linear layer, in float64."""
    gain, bias = _float64(1.0), _float64(layer.get("bias", 0.0))
    if "bn" in module:
        norm, averages = module["bn"], jax.tree.map(_float64, stats["bn"])
        gain = _float64(norm.get("scale", 1.0)) / np.sqrt(averages["var"] + BN_EPSILON)
        bias = (bias - averages["mean"]) * gain + _float64(norm["bias"])
    factor = scale * _float64(module.get("learned_scale", 1.0))
    return {
        "kernel": np.asarray(layer["kernel"]) * np.float32(gain * factor),
        "bias": np.float32(bias * factor),
    }


def _float64(x: ArrayLike) -> np.ndarray:
    return np.asarray(x, np.float64)
