# SPDX-License-Identifier: Apache-2.0
"""Metrics as sums and counts, and the JSON lines they are recorded in.

A mean is only taken when somebody looks: sums over devices, hosts and a partial last
batch add up to the exact figure over exactly N examples.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
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


def add(total: dict[str, float], sums: Sums) -> None:
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


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Add `record` as one line of `path`, flushed; numbers that are not finite become null.

    The line is written in one piece, so an interruption loses no earlier line. A last line
    without its end, left by a crash, is cut off first: it would swallow this one.
    """
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    with path.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON lines file; none if it does not exist.

    A last line without its end, left by a crash while writing, is ignored. Raises
    ValueError naming the line if another one cannot be read.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}); remove the line."
            ) from None
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
