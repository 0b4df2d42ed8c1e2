# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a model: `python -m experiments.finetune --data folder:DIR --from MODEL`.

The command saves, resumes, stops and records a training run like `python -m
experiments.run`. When the run is complete, the weights of its best evaluation are saved as
the model folder WORKDIR/model, and WORKDIR/report shows the model's mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import run
from inception_jax.cli.arguments import option
from inception_jax.config import (
    AugmentConfig,
    HostsConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
)
from inception_jax.runtime import hosts

PROG = "python -m experiments.finetune"
# A new classifier needs a few hundred steps, so training on a small data set takes more
# than `EPOCHS` epochs.
EPOCHS, MIN_STEPS = 30.0, 300
BATCH_SIZE = 32  # slim's for one device
LOG_EVERY = 10
# Settings that come from the initial weights.
NETWORK_SETTINGS = ("network", "bn_scale", "residual_scale", "ablation")
PREPROCESSING = ("image_size", "crop_fraction", "aspect", "resize", "pixel_range")


@dataclass(frozen=True)
class Options:
    """Fine-tune a model on images in folders, one folder for each class."""

    # Images: folder:DIR with DIR/CLASS, or with DIR/train/CLASS and DIR/val/CLASS; or the
    # name of a TFDS data set.
    data: str
    # Initial weights: a model folder, a run folder or the name of a model.
    weights: Annotated[str, tyro.conf.arg(name="from")]
    # Folder for the run, its model and its report.
    workdir: Path = Path("runs/finetune")
    # Start from a new classifier for the classes of the data, or from that of the initial
    # weights, which must have the same classes. It is trained in both cases.
    head: Literal["new", "kept"] = "new"
    # Factor on the learning rate of all layers except the classifier. 0 freezes these
    # layers, which saves two thirds of the time and suits small data sets.
    body_rate: float = 0.1
    # "frozen" keeps the moving averages of the initial weights. "trained" uses and tracks
    # the statistics of each batch, which are noisy if batches are small.
    batch_norm: Literal["frozen", "trained"] = "frozen"
    # Initial learning rate of the classifier, which decays to 1/20 of this value by the end
    # of the run. The paper's 0.045 is for batches of 640 images and random initial weights.
    learning_rate: float = 0.01
    # Weight decay of trained kernels; the default is slim's.
    weight_decay: float = 4e-5
    # Label smoothing. It helps little with few classes and reliable labels.
    label_smoothing: float = 0.0
    # Dropout rate before the classifier.
    dropout_rate: Annotated[float | None, option("FLOAT", "the network's")] = None
    # Images per batch, a multiple of the number of devices.
    batch_size: Annotated[int | None, option("INT", "32, or less for few images")] = None
    # Passes over the training images.
    epochs: Annotated[float | None, option("FLOAT", "30, but at least 300 steps")] = None
    # Number of evaluations, evenly spaced; each also saves a checkpoint.
    evaluations: int = 30
    # Number of evaluations without improvement after which training stops. One checkpoint
    # more than this number is kept, because the best one can be that old.
    patience: int = 5
    # Height and width of the network's input.
    image_size: Annotated[int | None, option("INT", "that of the weights")] = None
    # Training split, or a part such as train[:90%].
    train_split: str = "train"
    # Evaluation split, or a part such as train[90%:].
    eval_split: str = "eval"
    # Folder of prepared data sets.
    data_dir: Annotated[str | None, option("DIR", "TFDS's own")] = None
    # Parts of each device's batch that are computed one after another, to save memory.
    accumulate: int = 1
    # Precision of the computation; weights stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Seed of the new classifier, the order of the data, augmentation and dropout.
    seed: int = 0
    # Whether an unreadable image ends the run ("error") or is replaced and recorded.
    on_bad_image: Literal["error", "skip"] = "error"
    # Number of worker processes for reading and decoding images; 0 uses threads.
    workers: int = 0
    # Augmentation. Crops cover at least a quarter of an image, since smaller crops may miss
    # its subject. Colours are not changed if the network takes grey images.
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(area=(0.25, 1.0)))
    # Processes of a run on several hosts.
    hosts: HostsConfig = field(default_factory=HostsConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "evaluations", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be more than 0, got {value}.")


def parse(arguments: Sequence[str] | None = None) -> RunConfig:
    """Return the configuration of the run that a command line specifies.

    Raises ValueError if the data or the weights do not exist, or CheckpointError if they
    are damaged.
    """
    options = tyro.cli(Options, prog=PROG, description=__doc__, args=arguments)
    return config_for(options)


def config_for(options: Options) -> RunConfig:
    """Return the configuration of the run for `options`. Raises as `parse` does."""
    from inception_jax.data.open_source import open_source

    from_weights = _settings_of_weights(options)
    num_train = len(open_source(options.data, options.train_split, options.data_dir))
    batch_size = options.batch_size or _power_of_two(min(BATCH_SIZE, num_train))
    epochs = options.epochs or max(EPOCHS, MIN_STEPS * batch_size / num_train)
    interval = epochs / options.evaluations
    frozen = options.batch_norm == "frozen"
    same = ("data", "workdir", "head", "train_split", "eval_split", "data_dir", "seed")
    same += ("accumulate", "dtype", "on_bad_image", "workers", "dropout_rate", "hosts")
    return RunConfig(
        **from_weights,
        **{name: getattr(options, name) for name in same},
        first_weights=options.weights,
        batch_size=batch_size,
        epochs=epochs,
        bn_frozen=frozen,
        # In a few hundred steps, the default of 0.9997 would hardly change the averages.
        bn_decay=None if frozen else 0.99,
        eval_every=interval,
        checkpoint_every=interval,
        patience=options.patience,
        keep_checkpoints=options.patience + 1,
        log_every=LOG_EVERY,
        augment=_augmentation(options, from_weights["network"]),
        loss=LossConfig(label_smoothing=options.label_smoothing),
        optimizer=OptimizerConfig(
            # With epsilon = 1 and small gradients, the paper's RMSProp is nearly the same.
            kind="momentum",
            learning_rate=options.learning_rate,
            decay_rate=0.9,
            epochs_per_decay=epochs / 30,
            weight_decay=options.weight_decay,
            body_rate=options.body_rate,
            ema_decay=0.99,  # for hundreds of steps, not the paper's millions
        ),
    )


def _settings_of_weights(options: Options) -> dict[str, Any]:
    """Return the settings of the initial weights, or those recorded by a run to resume."""
    from inception_jax.storage import run_folder
    from inception_jax.training import initial_weights

    if (options.workdir / run_folder.RECORD_FILE).exists():
        config = run_folder.read_record(options.workdir).config
        names = NETWORK_SETTINGS + PREPROCESSING
        settings = {name: getattr(config, name) for name in names}
    else:
        card = initial_weights.source_card(options.weights)
        settings = {name: getattr(card, name) for name in NETWORK_SETTINGS}
        settings |= initial_weights.preprocessing_settings(card.preprocess)
    if options.image_size is not None:
        settings["image_size"] = options.image_size
    return settings


def _augmentation(options: Options, network: str) -> AugmentConfig:
    from inception_jax.models.zoo import get_spec

    color = options.augment.color and get_spec(network).image_shape[2] == 3
    return replace(options.augment, color=color)


def _power_of_two(most: int) -> int:
    """Return the largest power of two that does not exceed `most`."""
    return 2 ** (most.bit_length() - 1)


def finish(config: RunConfig) -> None:
    """Write the best model of a complete run and its report, in process 0 only.

    Raises CheckpointError if the checkpoint is damaged or the disk is full.
    """
    import jax

    from experiments.finetuning.report import write_best_model, write_report

    def write() -> None:
        if jax.process_index() == 0:
            write_report(config, *write_best_model(config))

    hosts.run_on_all(write)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is that of `experiments.run`."""
    return run.main(arguments, parse, finish, name="experiments.finetune")


if __name__ == "__main__":
    hosts.exit_process(main())
