# SPDX-License-Identifier: Apache-2.0
"""Accuracy over exactly N images: one crop or many, one model or an ensemble."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inception_jax.config import ParallelConfig
from inception_jax.data import Source, eval_batches
from inception_jax.data.types import Subset
from inception_jax.runtime.parallel import AxisName, DataParallel, share, this_host
from inception_jax.storage import run_folder
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.text import one_line
from inception_jax.training.from_config import network_for
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import Sums, add_sums, classification_sums
from inception_jax.training.step import Batch, TrainState, network_input, state_shapes
from inception_jax.weights.model import Model, card_of_run, load
from inception_jax.weights.model_folder import Card, Variables, is_model_folder

# Of weights: as trained; averaged, as in the paper; those of a file that others wrote.
KINDS = ("raw", "ema", "published")


@dataclass(frozen=True)
class Trained:
    """A model and its weights: of a run, two kinds of them; of a model folder, one."""

    model: Model
    variables: dict[str, Variables]  # by `KINDS`

    @property
    def card(self) -> Card:
        return self.model.card

    def weights(self, kind: str) -> Variables:
        """Those of a kind; the only ones there are go with every kind."""
        return self.variables.get(kind) or next(iter(self.variables.values()))


def load_state(
    workdir: Path, devices: Sequence[jax.Device], step: int | None = None
) -> tuple[run_folder.RunRecord, TrainState, int]:
    """Record, state and step of the newest good checkpoint (or that of `step`) of a run.

    Damaged ones that are newer are named on standard error. Raises ValueError where there
    is none, CheckpointError where that of `step` is damaged or all are.
    """
    record = run_folder.read_record(workdir)
    network = network_for(record.config, len(record.class_names))
    shapes = state_shapes(network, record.config.optimizer)
    with Checkpoints(run_folder.checkpoints_path(workdir)) as saved:
        if step is None:
            newest = saved.restore_newest(shapes)
            if newest is None:
                raise ValueError(f"{workdir} holds no checkpoint; train it first.")
        elif step in saved.steps():
            newest = step, saved.restore(step, shapes)
        else:
            raise ValueError(
                f"{workdir} holds no checkpoint of step {step}; there are: "
                f"{', '.join(map(str, saved.steps())) or 'none'}."
            )
    step, state = newest
    return record, share(state, shapes, devices), step


def load_trained(
    folder: Path, devices: Sequence[jax.Device], step: int | None = None
) -> Trained:
    """The model of a run at a checkpoint, or of a model folder.

    Raises as `load_state` and `inception_jax.load` do.
    """
    if is_model_folder(folder):
        model, variables = load(folder, step=step)
        kind = model.card.origin.weights or "published"
        return Trained(model, {kind: share(variables, model.shapes, devices)})
    _, state, step = load_state(folder, devices, step)
    return trained_in(folder, state, step)


def trained_in(folder: Path, state: TrainState, step: int) -> Trained:
    """The model of the run in `folder`, in a state that it was in after `step` updates."""
    card = card_of_run(folder, None, step)
    return Trained(Model(card), {"raw": state.raw_variables, "ema": state.ema_variables})


def view_probabilities(
    model: Model, variables: Variables, batch: Batch
) -> Float[Array, "n k"]:
    """Softmax of the logits, averaged over the views `[n, views, h, w, c]` of an image.

    As in GoogLeNet (arXiv 1409.4842, section 7): "the softmax probabilities are averaged
    over multiple crops and over all the individual classifiers".
    """

    def one(images: Array) -> Float[Array, "n k"]:
        inputs = network_input({"image": images}, model.card.preprocess)
        return jax.nn.softmax(model.apply(variables, inputs)[0])

    if batch["image"].ndim == 4:
        return one(batch["image"])
    views = jnp.moveaxis(batch["image"], 1, 0)  # one at a time: 144 would not fit
    return jnp.mean(jax.lax.map(one, views), axis=0)


def ensemble_step(
    variables: Sequence[Variables],
    batch: Batch,
    numbers: None,
    *,
    models: Sequence[Model],
    axis_name: AxisName,
) -> Sums:
    """Sums over the examples whose `mask` is 1, of the mean of all models' softmax."""
    each = [
        view_probabilities(model, v, batch)
        for model, v in zip(models, variables, strict=True)
    ]
    # A probability of 0 in float32 is one below its smallest number; NaN stays NaN.
    logits = jnp.log(jnp.maximum(sum(each) / len(each), jnp.finfo(jnp.float32).tiny))
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)


def evaluate(
    models: Sequence[Trained],
    source: Source,
    *,
    views: int,
    batch_size: int,
    devices: Sequence[jax.Device],
    on_bad_image: str = "error",
    tell: Callable[[float], None] = lambda images: None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Sums over the images of `source`, by `kinds_together` (metrics.means gives the
    accuracy), and, with on_bad_image="skip", what could not be read.

    The models, one or an ensemble, see each image once, in `views` views. `tell` gets the
    number of images looked at, batch by batch.

    Raises ValueError where the models differ in classes, preprocessing or kinds of
    weights, or their classes from the data's.
    """
    check_together(models, source)
    totals: dict[str, dict[str, float]] = {kind: {} for kind in kinds_together(models)}
    mean = partial(ensemble_step, models=[one.model for one in models])
    step = DataParallel(mean, ParallelConfig(), devices, donate_state=False)
    host, hosts = this_host()
    batches = eval_batches(
        source,
        preprocess=models[0].card.preprocess,
        batch_size=batch_size,
        views=views,
        num_hosts=hosts,
        host=host,
        on_bad_image=on_bad_image,
    )
    skipped: list[str] = []
    for batch in batches:
        placed = step.place({name: batch[name] for name in ("image", "label", "mask")})
        for kind, total in totals.items():
            add_sums(total, step([one.weights(kind) for one in models], placed, None))
        skipped += batch.get("skipped", [])
        tell(float(np.sum(batch["mask"])))
    return totals, skipped


def kinds_together(models: Sequence[Trained]) -> tuple[str, ...]:
    """Kinds of weights to evaluate: a run's two, with which those of a model folder go.

    Raises ValueError where model folders alone are of several kinds.
    """
    runs = [one for one in models if len(one.variables) > 1]
    kinds = tuple(dict.fromkeys(kind for one in runs or models for kind in one.variables))
    if len(kinds) > 1 and not runs:
        raise ValueError(
            f"weights of several kinds, {' and '.join(kinds)}, make no ensemble; name the "
            "run instead of the model folder that was made of it, or leave one out."
        )
    return kinds


def check_together(models: Sequence[Trained], source: Source) -> None:
    """Raise ValueError where models or data do not belong together."""
    first = models[0].card
    for card in (one.card for one in models):
        if card.class_names != source.class_names:
            raise ValueError(
                f"{card.network} was trained on {len(card.class_names)} classes "
                f"({_some(card.class_names)}), {source.name} has "
                f"{len(source.class_names)} ({_some(source.class_names)}); evaluate it on "
                "data with its own classes."
            )
        if card.preprocess != first.preprocess:
            raise ValueError(
                f"{first.network} takes images as {first.preprocess}, {card.network} as "
                f"{card.preprocess}; an ensemble needs them alike."
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")


def without(source: Source, excluded: Collection[str]) -> Source:
    """`source` without the images in `excluded`, by name.

    A number stands for the validation image of that number, as in ILSVRC's list
    `ILSVRC2014_clsloc_validation_blacklist.txt`, which Table 2 of the paper leaves out.

    Raises ValueError naming the first entry that is no image of the source.
    """
    wanted = {
        f"ILSVRC2012_val_{int(name):08d}.JPEG" if name.isdecimal() else name
        for name in excluded
    }
    names = [Path(source.examples[i]["name"]).name for i in range(len(source))]
    if unknown := sorted(wanted - set(names)):
        raise ValueError(
            f"{len(unknown)} of the images to exclude are not in {source.name} "
            f"{source.split}; the first is {unknown[0]}."
        )
    kept = [i for i, name in enumerate(names) if name not in wanted]
    return replace(source, examples=Subset(source.examples, kept))
