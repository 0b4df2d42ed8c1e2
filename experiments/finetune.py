# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.finetune --data folder:DIR --from MODEL`: new classes for a model.

A training run like those of `python -m experiments.run`, which begins from weights that are
there: it saves, resumes, stops and records as they do. At the end the best of its
evaluations is a model folder, WORKDIR/model, and WORKDIR/report shows what it gets wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import run
from inception_jax.config import (
    AugmentConfig,
    HostsConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
)
from inception_jax.runtime import hosts

PROG = "python -m experiments.finetune"
# Epochs unless that makes fewer updates, which a small set needs: a new classifier that is
# trained at 0.01 is far from done after a few dozen.
EPOCHS, MIN_UPDATES = 30.0, 300
BATCH_SIZE = 32  # slim's for one device
LOG_EVERY = 10
# What a run has from the weights it begins from.
OF_SOURCE = (
    *("network", "bn_scale", "residual_scale", "ablation"),
    *("image_size", "crop_fraction", "aspect", "resize", "pixel_range"),
)


@dataclass(frozen=True)
class Options:
    """Fine-tune a model on pictures in folders, one for each class."""

    # Pictures: folder:DIR with DIR/CLASS or DIR/train/CLASS and DIR/val/CLASS; or a data
    # set of TFDS.
    data: str
    # Weights to begin from: a model folder, the folder of a run, or a model's name.
    weights: Annotated[str, tyro.conf.arg(name="from")]
    # Folder for the run, its model and its report.
    workdir: Path = Path("runs/finetune")
    # A new classifier for the classes of the data, or the one that is there, for the same
    # classes.
    head: Literal["new", "kept"] = "new"
    # Factor on the learning rate of all but the classifier; 0 leaves it as it is, which
    # costs a third of the time and suits few pictures. What was learned from a million
    # pictures is to be changed little by some hundred.
    body_rate: float = 0.1
    # Batch norm by the moving averages of the weights, which stay, or trained anew: with
    # few pictures, hence small batches, statistics of batches are noise.
    batch_norm: Literal["frozen", "trained"] = "frozen"
    # Of the classifier. The paper's 0.045 is for 640 random pictures and a random network;
    # it falls in thirty steps of 0.9 to a twentieth.
    learning_rate: float = 0.01
    # On kernels that are trained: slim's.
    weight_decay: float = 4e-5
    # None: a few classes that are seen some hundred times are not labelled by a crowd.
    label_smoothing: float = 0.0
    # Share of what the classifier sees that is left out; default: as published, 0.2.
    dropout_rate: float | None = None
    # Pictures per update; default: 32, or the largest power of two that there are to train
    # on. A multiple of the number of devices.
    batch_size: int | None = None
    # Times the training pictures are seen; default: 30, or as many as make 300 updates.
    epochs: float | None = None
    # Evaluations, spread evenly over the epochs; each is a checkpoint too.
    evaluations: int = 30
    # Evaluations without a better one after which training ends. So many checkpoints and
    # one are kept, since the best can be as old.
    patience: int = 5
    # Height and width that pictures are brought to; default: those of the weights.
    image_size: int | None = None
    # Split to train on and split to evaluate on, or parts such as train[:90%].
    train_split: str = "train"
    eval_split: str = "eval"
    # Folder of prepared data sets; default: TFDS's own.
    data_dir: str | None = None
    # Parts of a device's share of a batch, one after another, to save memory.
    accumulate: int = 1
    # Of the computation; weights stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Of the new classifier, the order of the data, augmentation and dropout.
    seed: int = 0
    # An image that cannot be read ends the run, or is replaced and put on record.
    on_bad_image: Literal["error", "skip"] = "error"
    # Processes that read and decode; 0: threads of this one.
    workers: int = 0
    # Boxes from a quarter of a picture on: smaller ones may not show what it is of. Colour
    # is left alone where the network takes grey.
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(area=(0.25, 1.0)))
    hosts: HostsConfig = field(default_factory=HostsConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "evaluations", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be more than 0, got {value}.")


def parse(arguments: Sequence[str] | None = None) -> RunConfig:
    """The run that a command line means. Raises ValueError where its data or its weights
    are not there, CheckpointError where they are damaged."""
    options = tyro.cli(Options, prog=PROG, description=__doc__, args=arguments)
    return config_for(options)


def config_for(options: Options) -> RunConfig:
    """The run of `options`. Raises as `parse` does."""
    from inception_jax.data.open_source import open_source

    of_source = _of_source(options)
    num_train = len(open_source(options.data, options.train_split, options.data_dir))
    batch_size = options.batch_size or _power_of_two(min(BATCH_SIZE, num_train))
    epochs = options.epochs or max(EPOCHS, MIN_UPDATES * batch_size / num_train)
    interval = epochs / options.evaluations
    same = ("data", "workdir", "head", "train_split", "eval_split", "data_dir", "seed")
    same += ("accumulate", "dtype", "on_bad_image", "workers", "dropout_rate", "hosts")
    return RunConfig(
        **of_source,
        **{name: getattr(options, name) for name in same},
        first_weights=options.weights,
        batch_size=batch_size,
        epochs=epochs,
        bn_frozen=options.batch_norm == "frozen",
        # Some hundred updates: the networks' own 0.9997 would still be what it was.
        bn_decay=None if options.batch_norm == "frozen" else 0.99,
        eval_every=interval,
        checkpoint_every=interval,
        patience=options.patience,
        keep_checkpoints=options.patience + 1,
        log_every=LOG_EVERY,
        augment=_augmentation(options, of_source["network"]),
        loss=LossConfig(label_smoothing=options.label_smoothing),
        optimizer=OptimizerConfig(
            # With epsilon = 1 and small gradients the paper's RMSProp is nearly this.
            kind="momentum",
            learning_rate=options.learning_rate,
            decay_rate=0.9,
            epochs_per_decay=epochs / 30,
            weight_decay=options.weight_decay,
            body_rate=options.body_rate,
            ema_decay=0.99,  # of hundreds of updates, not of the paper's millions
        ),
    )


def _of_source(options: Options) -> dict[str, Any]:
    """What the weights decide; a run that has begun knows it without them."""
    from inception_jax.storage import run_folder
    from inception_jax.training import initial_weights

    if run_folder.record_path(options.workdir).exists():
        before = run_folder.read_record(options.workdir).config
        found = {name: getattr(before, name) for name in OF_SOURCE}
    else:
        card = initial_weights.source_card(options.weights)
        found = {name: getattr(card, name) for name in OF_SOURCE[:4]}
        found |= initial_weights.preprocessing_settings(card.preprocess)
    if options.image_size is not None:
        found["image_size"] = options.image_size
    return found


def _augmentation(options: Options, network: str) -> AugmentConfig:
    from inception_jax.models.network import get_spec

    color = options.augment.color and get_spec(network).image_shape[2] == 3
    return replace(options.augment, color=color)


def _power_of_two(most: int) -> int:
    return 2 ** (most.bit_length() - 1)


def finish(config: RunConfig) -> None:
    """Write the best model of a complete run, and the report on it; process 0 does.

    Raises CheckpointError where its checkpoint is damaged or there is no room.
    """
    from experiments.finetuning.report import write_best_model, write_report
    from inception_jax.runtime.parallel import this_host

    def write() -> None:
        if this_host()[0] == 0:
            write_report(config, *write_best_model(config))

    hosts.together(write)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: as of `experiments.run`."""
    return run.main(arguments, parse, finish)


if __name__ == "__main__":
    hosts.leave(main())
