# SPDX-License-Identifier: Apache-2.0
"""Metrics as sums and counts.

Sums of devices, processes and a partial last batch add up to those of the whole split.
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
    """Return sums of loss, top-1 and top-5 hits and count, where `mask` is 1."""
    top = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    hits = (top == labels[:, None]).astype(jnp.float32)
    # Without this, the top class of logits that are all NaN would be class 0.
    hits *= jnp.isfinite(logits).all(axis=-1, keepdims=True)
    return {
        "loss_sum": jnp.sum(jnp.where(mask > 0, loss, 0.0)),
        "top1_sum": jnp.sum(mask * hits[:, 0]),
        "top5_sum": jnp.sum(mask * hits.any(axis=-1)),
        "count": jnp.sum(mask),
    }


def add_sums(total: dict[str, float], sums: Sums) -> None:
    """Add the sums of a batch to `total`, which is empty at first."""
    for name, value in jax.device_get(sums).items():
        total[name] = total.get(name, 0.0) + float(value)


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Return each entry `NAME_sum` divided by `count`, as `NAME`.

    None, which stands for non-finite numbers in JSON lines, gives NaN.
    """
    count = float(sums["count"])
    return {
        name.removesuffix("_sum"): math.nan if value is None else float(value) / count
        for name, value in sums.items()
        if name.endswith("_sum")
    }


def best_evaluation(evaluations: Sequence[Mapping[str, Any]]) -> int:
    """Return the index of the best evaluation among lines of metrics.jsonl.

    The averaged weights' top-1 accuracy decides, then their loss; of equal ones, the first.
    """

    def score(index: int) -> tuple[float, float]:
        mean = means(evaluations[index]["ema"])
        return mean["top1"], -mean["loss"] if math.isfinite(mean["loss"]) else -math.inf

    return max(range(len(evaluations)), key=score)


def rounded(value: Any) -> float | list[float]:
    """Round a scalar or vector to five significant digits, for a JSON line."""
    values = [float(f"{x:.5g}") for x in np.ravel(value)]
    return values if np.ndim(value) else values[0]
