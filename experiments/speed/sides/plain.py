# SPDX-License-Identifier: Apache-2.0
"""The plain Flax formulation: the same step, every convolution one of `lax`, as drawn.

What this package computes otherwise for speed is undone here, and only here. Tests count
convolutions and pools of the trace, so that a fast form which is missing here is found.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from experiments.speed.case import Built, Case
from experiments.speed.sides import ours
from inception_jax.models.layers import ConvBN


def build(case: Case) -> Built:
    """As `ours.build`."""
    return ours.build(case, plainly)


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` traced with every convolution by `lax.conv_general_dilated`, and average
    pools before the 1x1 convolutions that follow them."""

    def traced(*arguments: Any, **options: Any) -> Any:
        with nn.intercept_methods(_as_drawn):
            return function(*arguments, **options)

    return traced


def _as_drawn(method: Callable[..., Any], arguments: tuple, options: dict, context: Any):
    # Fields of frozen dataclasses; these module objects are the trace's own.
    module = context.module
    if isinstance(module, ConvBN) and module.pool is not None:
        arguments = (module.pool(arguments[0]), *arguments[1:])
        object.__setattr__(module, "pool", None)
    if isinstance(module, nn.Conv) and module.conv_general_dilated is not None:
        object.__setattr__(module, "conv_general_dilated", None)
    return method(*arguments, **options)
