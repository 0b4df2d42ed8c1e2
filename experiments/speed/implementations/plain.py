# SPDX-License-Identifier: Apache-2.0
"""The plain Flax formulation: the same step, every convolution one of `lax`, as drawn.

What this package computes otherwise for speed is undone here, and only here. Tests count
convolutions and pools of the trace, so that a fast form which is missing here is found.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from experiments.speed.case import BuiltCase, Case
from experiments.speed.implementations import ours
from inception_jax.models import batch_norm, layers, pooling, residual
from inception_jax.models.layers import ConvBN


def build(case: Case) -> BuiltCase:
    """As `ours.build`."""
    return ours.build(case, plainly, folded=False)


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` traced with every convolution by `lax.conv_general_dilated` and on its
    own, average pools before the 1x1 convolutions that follow them, residuals scaled after
    the layer that gives them, and what JAX makes of batch norm, max pools and the ReLU of
    a sum as gradients."""

    def traced(*arguments: Any, **options: Any) -> Any:
        with ExitStack() as stack:
            for module, name, plain in (
                (layers, "first_boxes", lambda *_: {}),
                (batch_norm, "normalize", lambda *given: batch_norm.forward(*given)[0]),
                (pooling, "gathering_max_pool", pooling.xla_max_pool),
                (residual, "relu", nn.relu),
                (residual, "residual_sum", _sum_of_maps),
            ):
                stack.enter_context(mock.patch.object(module, name, plain))
            stack.enter_context(nn.intercept_methods(_as_drawn))
            return function(*arguments, **options)

    return traced


def _sum_of_maps(
    x: Array, residual: Array, activation: Callable[[Array], Array] | None
) -> Array:
    return activation(x + residual) if activation else x + residual


def _as_drawn(method: Callable[..., Any], arguments: tuple, options: dict, context: Any):
    # Fields of frozen dataclasses; these module objects are the trace's own.
    module = context.module
    if isinstance(module, ConvBN) and module.pool is not None:
        arguments = (module.pool(arguments[0]), *arguments[1:])
        object.__setattr__(module, "pool", None)
    if isinstance(module, nn.Conv):
        object.__setattr__(module, "conv_general_dilated", None)
        if isinstance(module.promote_dtype, partial):  # with the factor in it
            (factor,) = module.promote_dtype.args
            object.__setattr__(module, "promote_dtype", promote_dtype)
            y = method(*arguments, **options)
            return factor.astype(y.dtype) * y
    return method(*arguments, **options)
