# SPDX-License-Identifier: Apache-2.0
"""Accuracy over exactly N images: one crop or many, one run or an ensemble of runs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from inception_jax import run_folder
from inception_jax.checkpoint import Checkpoints
from inception_jax.config import ParallelConfig, PreprocessSpec, RunConfig
from inception_jax.data import Example, Source, eval_batches
from inception_jax.losses import cross_entropy
from inception_jax.metrics import Sums, add, classification_sums
from inception_jax.models.networks import Network
from inception_jax.parallel import AxisName, DataParallel, share, this_host
from inception_jax.printable import one_line
from inception_jax.step_setup import network_for
from inception_jax.train import Batch, TrainState, init_state, network_input

WEIGHTS = ("raw", "ema")  # as trained; averaged, as in the paper
Variables = dict[str, dict]


@dataclass(frozen=True)
class Model:
    """A trained network with what is needed to use it."""

    name: str  # of the network
    network: Network
    variables: dict[str, Variables]  # by `WEIGHTS`
    scale: Float[Array, ""] | None  # of the residuals; None: the network's own
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]
    step: int  # updates it was trained for
    config: RunConfig


def load_state(
    workdir: Path, devices: Sequence[jax.Device], step: int | None = None
) -> tuple[run_folder.RunRecord, TrainState, int]:
    """Record, state and step of the newest good checkpoint (or that of `step`) of a run.

    Damaged ones that are newer are named on standard error. Raises ValueError where there
    is none, CheckpointError where that of `step` is damaged or all are.
    """
    record = run_folder.read_record(workdir)
    network = network_for(record.config, len(record.class_names))
    shapes = jax.eval_shape(partial(init_state, network, record.config.optimizer), 0)
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


def load_model(
    workdir: Path, devices: Sequence[jax.Device], step: int | None = None
) -> Model:
    """The model of a run at a checkpoint. Raises as `load_state` does."""
    return model_of(*load_state(workdir, devices, step))


def model_of(record: run_folder.RunRecord, state: TrainState, step: int) -> Model:
    """The model of a run in a state that it was in after `step` updates."""
    scale = record.config.residual_scale
    return Model(
        name=record.config.network,
        network=network_for(record.config, len(record.class_names)),
        variables={"raw": state.raw_variables, "ema": state.ema_variables},
        scale=None if scale is None else jnp.float32(scale),
        preprocess=record.preprocess,
        class_names=record.class_names,
        step=step,
        config=record.config,
    )


def view_probabilities(
    network: Network,
    variables: Variables,
    batch: Batch,
    scale: Float[Array, ""] | None,
    preprocess: PreprocessSpec,
) -> Float[Array, "n k"]:
    """Softmax of the logits, averaged over the views `[n, views, h, w, c]` of an image.

    As in GoogLeNet (arXiv 1409.4842, section 7): "the softmax probabilities are averaged
    over multiple crops and over all the individual classifiers".
    """

    def one(images: Array) -> Float[Array, "n k"]:
        inputs = network_input({"image": images}, preprocess)
        return jax.nn.softmax(network.apply(variables, inputs, scale)[0])

    if batch["image"].ndim == 4:
        return one(batch["image"])
    views = jnp.moveaxis(batch["image"], 1, 0)  # one at a time: 144 would not fit
    return jnp.mean(jax.lax.map(one, views), axis=0)


def ensemble_step(
    variables: Sequence[Variables],
    batch: Batch,
    scales: Sequence[Float[Array, ""] | None],
    *,
    networks: Sequence[Network],
    preprocess: PreprocessSpec,
    axis_name: AxisName,
) -> Sums:
    """Sums over the examples whose `mask` is 1, of the mean of all networks' softmax."""
    each = [
        view_probabilities(network, v, batch, scale, preprocess)
        for network, v, scale in zip(networks, variables, scales, strict=True)
    ]
    # A probability of 0 in float32 is one below its smallest number; NaN stays NaN.
    logits = jnp.log(jnp.maximum(sum(each) / len(each), jnp.finfo(jnp.float32).tiny))
    losses = cross_entropy(logits, batch["label"])
    sums = classification_sums(logits, batch["label"], losses, batch["mask"])
    return jax.lax.psum(sums, axis_name)


def evaluate(
    models: Sequence[Model],
    source: Source,
    *,
    views: int,
    batch_size: int,
    devices: Sequence[jax.Device],
    on_bad_image: str = "error",
    tell: Callable[[float], None] = lambda images: None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Sums over the images of `source`, by `WEIGHTS` (metrics.means gives the accuracy),
    and, with on_bad_image="skip", what could not be read.

    The models, one or an ensemble, see each image once, in `views` views. `tell` gets the
    number of images looked at, batch by batch.

    Raises ValueError where the models differ in classes or preprocessing, or their
    classes from the data's.
    """
    check_together(models, source)
    step = _mapped(models, devices)
    host, hosts = this_host()
    batches = eval_batches(
        source,
        preprocess=models[0].preprocess,
        batch_size=batch_size,
        views=views,
        num_hosts=hosts,
        host=host,
        on_bad_image=on_bad_image,
    )
    totals: dict[str, dict[str, float]] = {name: {} for name in WEIGHTS}
    skipped: list[str] = []
    scales = [model.scale for model in models]
    for batch in batches:
        placed = step.place({name: batch[name] for name in ("image", "label", "mask")})
        for name, total in totals.items():
            variables = [model.variables[name] for model in models]
            add(total, step(variables, placed, scales))
        skipped += batch.get("skipped", [])
        tell(float(np.sum(batch["mask"])))
    return totals, skipped


def _mapped(models: Sequence[Model], devices: Sequence[jax.Device]) -> DataParallel:
    step = partial(
        ensemble_step,
        networks=[model.network for model in models],
        preprocess=models[0].preprocess,
    )
    return DataParallel(step, ParallelConfig(), devices, donate_state=False)


def check_together(models: Sequence[Model], source: Source) -> None:
    """Raise ValueError where models or data do not belong together."""
    first = models[0]
    for model in models:
        if model.class_names != source.class_names:
            raise ValueError(
                f"{model.name} was trained on {len(model.class_names)} classes "
                f"({_some(model.class_names)}), {source.name} has "
                f"{len(source.class_names)} ({_some(source.class_names)}); evaluate it on "
                "data with its own classes."
            )
        if model.preprocess != first.preprocess:
            raise ValueError(
                f"{first.name} takes images as {first.preprocess}, {model.name} as "
                f"{model.preprocess}; an ensemble needs them alike."
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True)
class Subset(Sequence):
    """Some of the examples, in the order of `positions`."""

    examples: Sequence[Example]
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Example:
        return self.examples[self.positions[i]]


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
