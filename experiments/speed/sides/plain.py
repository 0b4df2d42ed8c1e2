# SPDX-License-Identifier: Apache-2.0
"""The plain Flax formulation: the same step, every convolution one of `lax`, as drawn.

What this package computes otherwise for speed is undone here, and only here. A test counts
the convolutions of the trace, so that a fast form which is missing here is found.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from experiments.speed.case import Built, Case
from experiments.speed.sides import ours


def build(case: Case) -> Built:
    """As `ours.build`."""
    return ours.build(case, plainly)


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` traced with each `nn.Conv` computed by `lax.conv_general_dilated`."""

    def traced(*arguments: Any, **options: Any) -> Any:
        with nn.intercept_methods(_by_lax):
            return function(*arguments, **options)

    return traced


def _by_lax(method: Callable[..., Any], arguments: tuple, options: dict, context: Any):
    conv = context.module
    if isinstance(conv, nn.Conv) and conv.conv_general_dilated is not None:
        # A field of a frozen dataclass; this module object is the trace's own.
        object.__setattr__(conv, "conv_general_dilated", None)
    return method(*arguments, **options)
