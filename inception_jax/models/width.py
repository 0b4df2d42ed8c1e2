# SPDX-License-Identifier: Apache-2.0
"""Wider and narrower versions of a network, with all of its channels in proportion."""

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any

from inception_jax.models.layers import Box, ModuleDef
from inception_jax.models.reduction_a import ReductionA
from inception_jax.models.spec import NetworkSpec


@cache  # equal arguments give one spec, so a network is compiled once
def with_width(spec: NetworkSpec, factor: float) -> NetworkSpec:
    """Return `spec` with `factor` times the filters in every convolution.

    Numbers of filters are rounded, and at least 1. The linear 1x1 convolutions of residual
    blocks follow the width of the stream. `inception_resnet_v2_paper` has 2144 channels
    before the pool, and 536 with a factor of 0.25.

    Raises ValueError if the factor is not positive and finite.
    """
    if not 0 < factor < math.inf:
        raise ValueError(
            f"the factor on the width must be positive and finite, got {factor}."
        )
    if factor == 1:
        return spec
    stages = tuple(
        replace(stage, module=_scaled_block(stage.module, factor)) for stage in spec.stages
    )
    return replace(
        spec,
        stem=partial(spec.stem, steps=_scaled(spec.stem().steps, factor)),
        stages=stages,
        final_conv=spec.final_conv and _scaled_count(spec.final_conv, factor),
    )


def _scaled_block(module: ModuleDef, factor: float) -> ModuleDef:
    block = module()
    if isinstance(block, ReductionA):
        widths = (block.k, block.l, block.m, block.n)
        scaled: Any = [_scaled_count(width, factor) for width in widths]
        return partial(ReductionA, *scaled)
    return partial(module, branches=_scaled(block.branches, factor))


def _scaled(layers: Any, factor: float) -> Any:
    """Return nested tuples of layers with the filters of each box multiplied."""
    if isinstance(layers, tuple):
        return tuple(_scaled(layer, factor) for layer in layers)
    if isinstance(layers, Box):
        return replace(layers, features=_scaled_count(layers.features, factor))
    return layers  # a pool or a name


def _scaled_count(count: int, factor: float) -> int:
    return max(1, round(count * factor))
