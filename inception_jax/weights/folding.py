# SPDX-License-Identifier: Apache-2.0
"""Networks for inference alone, whose convolutions do what follows them: `fold`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from inception_jax.models.batch_norm import BN_EPSILON
from inception_jax.models.inputs import ResidualScale, block_scales
from inception_jax.models.spec import NetworkSpec
from inception_jax.weights.model import Model, check_variables
from inception_jax.weights.model_folder import Variables


def fold(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """`model, variables` with the same outputs and endpoints, but for rounding, for
    inference alone: a program two thirds as long.

    Batch norms with their moving averages become part of the convolution or linear layer
    before them, and so does all that a residual is multiplied with: its norm, its learned
    scale and the residual scale of the model's card. A batch norm on a residual sum,
    `pool_norm`, has no layer before it and stays.

    The variables have `conv/kernel` and `conv/bias` where a box had `conv/kernel`, `bn/...`
    and moving averages; the auxiliary head is left out.

    Raises ValueError for a model that is folded already and variables that are not the
    model's.
    """
    if model.folded:
        raise ValueError(
            "the model is folded already: give fold the model and variables from load."
        )
    check_variables(model, variables, "the given variables")
    card = replace(model.card, aux_head=False)
    found = fold_variables(model.network.spec, variables, model.card.residual_scale)
    return Model(card, folded=True), found


def fold_variables(
    spec: NetworkSpec, variables: Variables, residual_scale: ResidualScale = None
) -> Variables:
    """What `fold` makes of the variables of a network, for `create(spec, folded=True)`."""
    params, stats = variables["params"], variables["batch_stats"]
    blocks = [name for s in spec.stages if s.scale is not None for name in s.names]
    scales = np.asarray(block_scales(spec, residual_scale), np.float64)
    scale_of = dict(zip(blocks, scales, strict=True))
    found = {
        "params": {
            name: _folded(tree, stats.get(name, {}), scale_of.get(name, 1.0))
            for name, tree in params.items()
            if name != "AuxLogits"
        }
    }
    if "PrePool" in stats:
        found["batch_stats"] = {"PrePool": stats["PrePool"]}
    return jax.tree.map(jnp.asarray, found)


def _folded(params: dict, stats: dict, scale: float = 1.0) -> dict:
    """`params` of a module, each linear layer with what follows it there."""
    found = {}
    for name, tree in params.items():
        if name in ("bn", "learned_scale"):
            continue  # they go into the layer beside them
        if not isinstance(tree, dict):
            found[name] = tree
        elif "kernel" in tree:
            found[name] = _linear(tree, params, stats, scale)
        else:
            found[name] = _folded(tree, stats.get(name, {}))
    return found


def _linear(layer: dict, params: dict, stats: dict, scale: float) -> dict[str, np.ndarray]:
    gain, bias = 1.0, _double(layer.get("bias", 0.0))
    if "bn" in params:
        norm, average = params["bn"], jax.tree.map(_double, stats["bn"])
        gain = _double(norm.get("scale", 1.0)) / np.sqrt(average["var"] + BN_EPSILON)
        bias = (bias - average["mean"]) * gain + _double(norm["bias"])
    scale = scale * _double(params.get("learned_scale", 1.0))
    return {
        "kernel": np.asarray(layer["kernel"]) * np.float32(gain * scale),
        "bias": np.float32(bias * scale),
    }


def _double(x: ArrayLike) -> np.ndarray:
    return np.asarray(x, np.float64)
