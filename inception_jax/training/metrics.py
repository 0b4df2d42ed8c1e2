# SPDX-License-Identifier: Apache-2.0
"""Metrics as sums and counts, and the JSON lines they are recorded in.

A mean is only taken when somebody looks: sums over devices, hosts and a partial last
batch add up to the exact figure over exactly N examples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Sums = dict[str, Float[Array, ""]]


def classification_sums(
    logits: Float[Array, "n k"],
    labels: Int[Array, " n"],
    loss: Float[Array, " n"],
    mask: Float[Array, " n"],
) -> Sums:
    """Sums over the examples where `mask` is 1: loss, top-1 and top-5 hits, count."""
    top = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    hits = (top == labels[:, None]).astype(jnp.float32)
    # A label is a hit only if its logit is a number: argmax of NaNs would be class 0.
    hits *= jnp.isfinite(logits).all(axis=-1, keepdims=True)
    return {
        "loss_sum": jnp.sum(jnp.where(mask > 0, loss, 0.0)),
        "top1_sum": jnp.sum(mask * hits[:, 0]),
        "top5_sum": jnp.sum(mask * hits.any(axis=-1)),
        "count": jnp.sum(mask),
    }


def add_sums(total: dict[str, float], sums: Sums) -> None:
    """Add the sums of a batch to a total that starts as {}."""
    for name, value in jax.device_get(sums).items():
        total[name] = total.get(name, 0.0) + float(value)


def means(sums: dict[str, Any]) -> dict[str, float]:
    """`*_sum` entries divided by `count`, under their names without `_sum`.

    None, as JSON lines hold what is not finite, gives NaN.
    """
    count = float(sums["count"])
    return {
        name.removesuffix("_sum"): math.nan if value is None else float(value) / count
        for name, value in sums.items()
        if name.endswith("_sum")
    }


def best_evaluation(evaluations: Sequence[Mapping[str, Any]]) -> int:
    """Position of the best of some evaluations, as metrics.jsonl has them.

    The averaged weights' top-1 accuracy decides; where it is equal, their loss; where that
    is too, the first.
    """

    def score(position: int) -> tuple[float, float]:
        mean = means(evaluations[position]["ema"])
        return mean["top1"], -mean["loss"] if math.isfinite(mean["loss"]) else -math.inf

    return max(range(len(evaluations)), key=score)


def rounded(value: Any) -> float | list[float]:
    """A number or an array of one axis for a JSON line, to five significant digits."""
    values = [float(f"{x:.5g}") for x in np.ravel(value)]
    return values if np.ndim(value) else values[0]
