# SPDX-License-Identifier: Apache-2.0
"""Evaluation of one model or an ensemble, with one or many views of each image."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inception_jax.config import ParallelConfig
from inception_jax.data.batches import OnBadImage, eval_batches
from inception_jax.data.source import Source, Subset
from inception_jax.runtime.collectives import AxisName
from inception_jax.runtime.parallel import data_parallel, replicate
from inception_jax.storage import run_folder
from inception_jax.text import first_few
from inception_jax.training.from_config import network_for
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import Sums, add_sums, classification_sums
from inception_jax.training.state import TrainState, state_shapes
from inception_jax.training.step import Batch, network_input
from inception_jax.weights.model import Model, card_of_run, load, open_checkpoints
from inception_jax.weights.model_folder import Card, Variables, is_model_folder

# Raw weights, averaged weights (which the paper evaluates), and imported weights.
WEIGHT_KINDS = ("raw", "ema", "published")


@dataclass(frozen=True)
class TrainedModel:
    """A model and its weights: two kinds for a run, one for a model folder."""

    model: Model
    variables: dict[str, Variables]  # keyed by `WEIGHT_KINDS`

    @property
    def card(self) -> Card:
        return self.model.card

    def weights_or_only(self, kind: str) -> Variables:
        """Return the weights of this kind, or the only weights if there is one kind."""
        if len(self.variables) == 1:
            (only,) = self.variables.values()
            return only
        return self.variables[kind]


@dataclass(frozen=True)
class RestoredRun:
    """The record of a run and its state after `step` updates."""

    record: run_folder.RunRecord
    state: TrainState
    step: int


def load_state(
    run: Path, devices: Sequence[jax.Device], step: int | None = None
) -> RestoredRun:
    """Restore a run from the checkpoint of `step`, by default the newest undamaged one.

    The copies of stale replicas are left out, because only training needs them.
    Newer, damaged checkpoints are reported on standard error. Raises ValueError if there
    is no such checkpoint, or CheckpointError if it is damaged or if all are.
    """
    record = run_folder.read_record(run)
    network = network_for(record.config, len(record.class_names))
    replicas = record.config.parallel.stale_replicas
    shapes = state_shapes(network, record.config.optimizer, replicas)
    with open_checkpoints(run, step) as checkpoints:
        if step is None:
            newest = checkpoints.restore_newest(shapes)
            assert newest is not None  # `open_checkpoints` found at least one
            step, state = newest
        else:
            state = checkpoints.restore(step, shapes)
    state, shapes = (x._replace(replicas=None) for x in (state, shapes))
    return RestoredRun(record, replicate(state, shapes, devices), step)


def load_trained(
    folder: Path, devices: Sequence[jax.Device], step: int | None = None
) -> TrainedModel:
    """Load a run at a checkpoint, or a model folder, onto `devices`."""
    if is_model_folder(folder):
        model, variables = load(folder, step=step)
        kind = model.card.origin.weights or "published"
        return TrainedModel(model, {kind: replicate(variables, model.shapes, devices)})
    restored = load_state(folder, devices, step)
    return trained_model(folder, restored.state, restored.step)


def trained_model(run: Path, state: TrainState, step: int) -> TrainedModel:
    """Return the model of a run with both kinds of weights of `state`."""
    variables = {"raw": state.raw_variables, "ema": state.ema_variables}
    return TrainedModel(Model(card_of_run(run, None, step)), variables)


def view_probabilities(
    model: Model, variables: Variables, batch: Batch
) -> Float[Array, "n k"]:
    """Return the softmax of the logits, averaged over the views `[n, views, h, w, c]`.

    Images `[n, h, w, c]` have one view each. As in GoogLeNet (arXiv 1409.4842, section 7):
    "the softmax probabilities are averaged over multiple crops and over all the individual
    classifiers".
    """

    def probabilities(images: Array) -> Float[Array, "n k"]:
        inputs = network_input({"image": images}, model.card.preprocess)
        return jax.nn.softmax(model.apply(variables, inputs)[0])

    if batch["image"].ndim == 4:
        return probabilities(batch["image"])
    views = jnp.moveaxis(batch["image"], 1, 0)
    # One view at a time: the activations of 144 views would not fit in memory.
    return jnp.mean(jax.lax.map(probabilities, views), axis=0)


def ensemble_step(
    variables: Sequence[Variables],
    batch: Batch,
    numbers: None,
    *,
    models: Sequence[Model],
    axis_name: AxisName,
) -> Sums:
    """Return the metric sums of the models' mean softmax over examples with `mask` 1."""
    probabilities = [
        view_probabilities(model, model_variables, batch)
        for model, model_variables in zip(models, variables, strict=True)
    ]
    mean = sum(probabilities) / len(probabilities)
    # A probability that underflows to 0 becomes the smallest normal number; NaN stays NaN.
    logits = jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)


def evaluate(
    models: Sequence[TrainedModel],
    source: Source,
    *,
    views: int,
    batch_size: int,
    devices: Sequence[jax.Device],
    on_bad_image: OnBadImage = "error",
    on_batch: Callable[[float], None] = lambda images: None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Evaluate one model, or an ensemble, on every image of `source` exactly once.

    The softmax is averaged over models and over the views of an image. `batch_size` counts
    images, not views, over all devices. `on_batch` is called after each batch with its
    number of images.

    Returns metric sums by kind of weights, which `training.metrics.means` converts to
    accuracies, and the errors of skipped images.
    """
    check_compatible(models, source)
    totals: dict[str, dict[str, float]] = {kind: {} for kind in kinds_to_evaluate(models)}
    combined = partial(ensemble_step, models=[one.model for one in models])
    step = data_parallel(combined, ParallelConfig(), devices, donate=False)
    batches = eval_batches(
        source,
        preprocess=models[0].card.preprocess,
        batch_size=batch_size,
        views=views,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
        on_bad_image=on_bad_image,
    )
    skipped: list[str] = []
    for batch in batches:
        placed = step.place({name: batch[name] for name in ("image", "label", "mask")})
        for kind, total in totals.items():
            variables = [one.weights_or_only(kind) for one in models]
            add_sums(total, step(variables, placed, None))
        skipped += batch.get("skipped", [])
        on_batch(float(np.sum(batch["mask"])))
    return totals, skipped


def kinds_to_evaluate(models: Sequence[TrainedModel]) -> tuple[str, ...]:
    """Return both kinds of weights if there is a run, or the kind of all model folders.

    The weights of a model folder are combined with each kind of a run. Raises ValueError if
    there are only model folders and their kinds differ.
    """
    for one in models:
        if len(one.variables) > 1:
            return tuple(one.variables)
    kinds = tuple(dict.fromkeys(kind for one in models for kind in one.variables))
    if len(kinds) > 1:
        raise ValueError(
            f"an ensemble needs weights of one kind, got {' and '.join(kinds)}; use the "
            "run instead of the model folder exported from it, or omit one model."
        )
    return kinds


def check_compatible(models: Sequence[TrainedModel], source: Source) -> None:
    """Raise ValueError if models differ in preprocessing, or from the data in classes."""
    first = models[0].card
    for card in (one.card for one in models):
        if card.class_names != source.class_names:
            raise ValueError(
                f"{card.network} was trained on {_describe(card.class_names)}, but "
                f"{source.name} has {_describe(source.class_names)}; evaluate it on data "
                "with its own classes."
            )
        if card.preprocess != first.preprocess:
            raise ValueError(
                f"an ensemble needs the same preprocessing, but {first.network} has "
                f"{first.preprocess} and {card.network} has {card.preprocess}."
            )


def _describe(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({first_few(names, 3)})"


def exclude_images(source: Source, excluded: Collection[str]) -> Source:
    """Return `source` without the images named in `excluded`.

    A number stands for the validation image of that number, as in ILSVRC's list
    `ILSVRC2014_clsloc_validation_blacklist.txt` of the images omitted in Table 2.

    Raises ValueError if an entry is not an image of the source.
    """
    unwanted = {
        f"ILSVRC2012_val_{int(name):08d}.JPEG" if name.isdecimal() else name
        for name in excluded
    }
    names = [Path(source.examples[i]["name"]).name for i in range(len(source))]
    if unknown := sorted(unwanted - set(names)):
        raise ValueError(
            f"{len(unknown)} of the images to exclude are not in {source.name} "
            f"{source.split}; the first is {unknown[0]}."
        )
    kept = [i for i, name in enumerate(names) if name not in unwanted]
    return replace(source, examples=Subset(source.examples, kept))
