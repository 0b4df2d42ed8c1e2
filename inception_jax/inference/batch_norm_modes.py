# SPDX-License-Identifier: Apache-2.0
"""Comparison of batch norm's two modes, and recalibration of its moving averages.

If a network is accurate in training mode but not in evaluation mode, its moving averages do
not match its weights. This happens after too few updates for a decay of 0.9997, while the
weights change fast, or with averaged weights, whose activations differ from those of the
raw weights.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from inception_jax.config import ParallelConfig
from inception_jax.runtime.collectives import AxisName, Step, mean_over
from inception_jax.runtime.collectives import Batch as HostBatch
from inception_jax.runtime.parallel import ParallelStep, data_parallel
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import classification_sums, means
from inception_jax.training.step import Batch, network_input
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Variables

MODES = ("eval", "train")


def mode_sums(
    variables: Variables, batch: Batch, numbers: None, *, model: Model, axis_name: AxisName
) -> dict[str, dict]:
    """Return metric sums with moving averages ("eval") and batch statistics ("train")."""
    inputs, labels = network_input(batch, model.card.preprocess), batch["label"]
    logits = {
        "eval": model.apply(variables, inputs)[0],
        "train": _apply_in_training_mode(model, variables, inputs)[0],
    }
    sums = {}
    for mode in MODES:
        losses = cross_entropy(logits[mode], labels)
        ones = jnp.ones_like(losses)
        sums[mode] = classification_sums(logits[mode], labels, losses, ones)
    return jax.lax.psum(sums, axis_name)


def mode_gap(
    model: Model,
    variables: Variables,
    batches: Iterable[HostBatch],
    devices: Sequence[jax.Device],
) -> dict[str, dict[str, float]]:
    """Return mean loss and accuracies over `batches` in both `MODES`."""
    step = _on_devices(mode_sums, model, devices)
    sums = [jax.device_get(step(variables, batch, None)) for batch in batches]
    totals = jax.tree.map(lambda *x: float(sum(x)), *sums)
    return {mode: means(totals[mode]) for mode in MODES}


def input_moments(
    variables: Variables, batch: Batch, numbers: None, *, model: Model, axis_name: AxisName
) -> dict:
    """Return a batch_stats tree with mean and mean square of each batch norm's input."""
    inputs = network_input(batch, model.card.preprocess)
    _, stats = _apply_in_training_mode(model, variables, inputs)
    moments = _map_norms(
        lambda s: {"mean": s["mean"], "square": s["var"] + jnp.square(s["mean"])}, stats
    )
    return mean_over(moments, axis_name)


def recalibrate_statistics(
    model: Model,
    variables: Variables,
    batches: Iterable[HostBatch],
    devices: Sequence[jax.Device],
) -> dict:
    """Return batch_stats with mean and variance over all `batches` together."""
    step = _on_devices(input_moments, model, devices)
    total: Any = None
    count = 0
    for batch in batches:
        moments = step(variables, batch, None)
        total = moments if total is None else jax.tree.map(jnp.add, total, moments)
        count += 1

    def statistics(total: dict[str, jax.Array]) -> dict[str, jax.Array]:
        mean, square = total["mean"] / count, total["square"] / count
        return {"mean": mean, "var": jnp.maximum(square - jnp.square(mean), 0.0)}

    return _map_norms(statistics, total)


def _apply_in_training_mode(
    model: Model, variables: Variables, inputs: jax.Array
) -> tuple[jax.Array, dict]:
    """Return logits with batch statistics, and these statistics, without dropout."""
    # With a decay of 0, the moving averages become the batch statistics.
    network = model.network.clone(dropout_rate=0.0, aux_head=False, bn_decay=0.0)
    scale = model.card.residual_scale
    (logits, _), updated = network.apply(
        variables, inputs, scale, train=True, mutable=["batch_stats"]
    )
    return logits, dict(updated["batch_stats"])


def _map_norms(function: Callable[[dict], dict], stats: dict) -> dict:
    """Apply `function` to the statistics of each batch norm."""
    return jax.tree.map(function, stats, is_leaf=lambda x: "mean" in x)


def _on_devices(step: Step, model: Model, devices: Sequence[jax.Device]) -> ParallelStep:
    step = partial(step, model=model)
    return data_parallel(step, ParallelConfig(), devices, donate=False)
