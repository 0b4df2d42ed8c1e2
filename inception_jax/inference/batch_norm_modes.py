# SPDX-License-Identifier: Apache-2.0
"""Batch norm's two modes: how far moving averages are off, and making them anew.

A network that is good in training mode and bad in evaluation mode has moving averages
that do not belong to its weights: too few updates for a decay of 0.9997, weights that
still move fast, or averaged weights with other activations.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

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


def both_modes(
    variables: Variables,
    batch: Batch,
    numbers: None,
    *,
    model: Model,
    axis_name: AxisName,
) -> dict[str, dict]:
    """Sums of the same examples with moving averages ("eval") and with this batch's own
    statistics ("train"), without dropout."""
    inputs, labels = network_input(batch, model.card.preprocess), batch["label"]
    by_averages, _ = model.apply(variables, inputs)
    by_batch, _ = _in_training(model, variables, inputs)
    sums = {}
    for mode, logits in (("eval", by_averages), ("train", by_batch)):
        losses = cross_entropy(logits, labels)
        sums[mode] = classification_sums(logits, labels, losses, jnp.ones_like(losses))
    return jax.lax.psum(sums, axis_name)


def moments(
    variables: Variables,
    batch: Batch,
    numbers: None,
    *,
    model: Model,
    axis_name: AxisName,
) -> dict:
    """First and second moments of the input of each batch norm, as a batch_stats tree."""
    inputs = network_input(batch, model.card.preprocess)
    _, updated = _in_training(model, variables, inputs)
    second = _by_norm(
        lambda s: {"mean": s["mean"], "var": s["var"] + jnp.square(s["mean"])},
        updated["batch_stats"],
    )
    return mean_over(second, axis_name)


def _in_training(
    model: Model, variables: Variables, inputs: jax.Array
) -> tuple[jax.Array, dict]:
    """Logits by this batch's statistics, and these statistics; without dropout."""
    # With a decay of 0 the moving averages become the batch's statistics.
    network = model.network.clone(dropout_rate=0.0, aux_head=False, bn_decay=0.0)
    scale = model.card.residual_scale
    (logits, _), updated = network.apply(
        variables, inputs, scale, train=True, mutable=["batch_stats"]
    )
    return logits, updated


def recalibrate_statistics(
    model: Model,
    variables: Variables,
    batches: Iterable[HostBatch],
    devices: Sequence[jax.Device],
) -> dict:
    """batch_stats of these weights: mean and variance over all `batches` together."""
    measure = _mapped(moments, model, devices)
    total, count = None, 0
    for batch in batches:
        found = measure(variables, batch, None)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        count += 1
    mean = jax.tree.map(lambda x: x / count, total)
    return _by_norm(
        lambda m: {
            "mean": m["mean"],
            "var": jnp.maximum(m["var"] - jnp.square(m["mean"]), 0.0),
        },
        mean,
    )


def _by_norm(function: Callable[[dict], dict], stats: dict) -> dict:
    """Apply `function` to the mean and variance of each batch norm."""
    return jax.tree.map(function, stats, is_leaf=lambda x: "mean" in x)


def mode_gap(
    model: Model,
    variables: Variables,
    batches: Iterable[HostBatch],
    devices: Sequence[jax.Device],
) -> dict[str, dict[str, float]]:
    """Mean loss and accuracies over `batches` in both modes: "eval" and "train"."""
    step = _mapped(both_modes, model, devices)
    found = [jax.device_get(step(variables, batch, None)) for batch in batches]
    return {
        mode: means(jax.tree.map(lambda *x: float(sum(x)), *(f[mode] for f in found)))
        for mode in ("eval", "train")
    }


def _mapped(step: Step, model: Model, devices: Sequence[jax.Device]) -> ParallelStep:
    step = partial(step, model=model)
    return data_parallel(step, ParallelConfig(), devices, donate_state=False)
