# SPDX-License-Identifier: Apache-2.0
"""Prepare a run: open its data, build its network, and check that everything fits."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.models.network import Network
from inception_jax.runtime.devices import all_devices, describe, device_memory
from inception_jax.storage import run_folder
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.lock import RunLock
from inception_jax.storage.orbax_files import check_checkpoint_path
from inception_jax.text import format_bytes
from inception_jax.training.from_config import network_for, preprocess_for, train_options
from inception_jax.training.initial_weights import check_first_weights
from inception_jax.training.state import state_shapes, tree_bytes
from inception_jax.training.step import TrainOptions


@dataclass(frozen=True)
class Setup:
    """The parts of a run, checked to fit together."""

    config: RunConfig
    network: Network
    preprocess: PreprocessSpec
    train_source: Source
    eval_source: Source
    devices: Sequence[jax.Device]
    options: TrainOptions
    steps: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps per pass over the training set; a batch may extend into the next pass."""
        return self.options.steps_per_epoch

    @property
    def eval_batch_size(self) -> int:
        """The training batch size, or less if the split has fewer examples."""
        needed = -(-len(self.eval_source) // len(self.devices)) * len(self.devices)
        return min(self.config.batch_size, needed)

    @property
    def probe_images(self) -> int:
        """The number of probe images, rounded down to the same number on each device."""
        devices = len(self.devices)
        return min(self.config.probe_images, len(self.eval_source)) // devices * devices

    @property
    def folder(self) -> Path:
        return self.config.workdir

    @property
    def checkpoints(self) -> Path:
        return self.folder / run_folder.CHECKPOINTS_FOLDER


def set_up(config: RunConfig) -> Setup:
    """Open the data, build the network and check the run folder; nothing is written to it.

    Raises ValueError if they do not fit together or the folder holds another run, and
    CheckpointError if the card of the first weights is damaged.
    """
    devices = all_devices()
    parts = len(devices) * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of {parts} ({len(devices)} devices x "
            f"accumulate {config.accumulate}), got {config.batch_size}."
        )
    preprocess = preprocess_for(config)
    if config.augment.color and preprocess.image_shape[2] != 3:
        raise ValueError(
            f"augment.color must be False for {config.network}, whose images are grey; add "
            "--augment.no-color."
        )
    train = open_source(config.data, config.train_split, config.data_dir)
    evaluation = open_source(config.data, config.eval_split, config.data_dir)
    network = network_for(config, len(train.class_names), len(devices))
    per_epoch = len(train) / config.batch_size
    setup = Setup(
        config=config,
        network=network,
        preprocess=preprocess,
        train_source=train,
        eval_source=evaluation,
        devices=devices,
        options=train_options(config, network, per_epoch),
        steps=config.steps or math.ceil(config.epochs * per_epoch),
    )
    _check_counts(setup)
    if config.parallel.stale_replicas > 1:
        _check_memory(setup)
    check_checkpoint_path(setup.checkpoints)
    _existing_record(setup)
    if config.head == "kept" and config.first_weights is None:
        raise ValueError("head must be new without first_weights, got 'kept'.")
    starts = jax.process_index() == 0 and not Checkpoints(setup.checkpoints).steps()
    if config.first_weights is not None and starts:
        check_first_weights(config, train.class_names)
    return setup


def _check_counts(setup: Setup) -> None:
    config, devices = setup.config, len(setup.devices)
    if config.batch_size > len(setup.train_source):
        raise ValueError(
            f"batch_size must be at most the {len(setup.train_source)} training examples "
            f"of {config.data}, got {config.batch_size}."
        )
    if config.probe_every is not None and not setup.probe_images:
        raise ValueError(
            f"probe_images must be at least one for each of the {devices} devices, got "
            f"{config.probe_images} of the {len(setup.eval_source)} examples of "
            f"{config.data} ({config.eval_split})."
        )


def _check_memory(setup: Setup) -> None:
    """Raise ValueError if the copies of stale replicas do not fit beside the state."""
    replicas, available = setup.config.parallel.stale_replicas, device_memory()
    needed = tree_bytes(state_shapes(setup.network, setup.config.optimizer, replicas))
    if needed > available:
        raise ValueError(
            f"parallel.stale_replicas={replicas} needs {format_bytes(needed)} for a state "
            f"with a copy of the parameters for each replica, but a device has "
            f"{format_bytes(available)}; choose fewer replicas."
        )


@contextmanager
def claim_folder(setup: Setup) -> Iterator[run_folder.RunRecord | None]:
    """Lock the run folder, write the record of the run, and yield the previous record.

    Raises ValueError if another process uses the folder or it holds another run.
    """
    setup.folder.mkdir(parents=True, exist_ok=True)
    with RunLock(setup.folder / run_folder.LOCK_FILE):
        previous = _existing_record(setup)
        for draft in setup.folder.glob("*.tmp-*"):  # of `atomic_output` in a killed process
            draft.unlink()
        record = run_folder.RunRecord(
            config=setup.config,
            preprocess=setup.preprocess,
            class_names=setup.train_source.class_names,
            num_train=len(setup.train_source),
            num_eval=len(setup.eval_source),
            steps=setup.steps,
            sessions=(*(previous.sessions if previous else ()), current_session(setup)),
        )
        run_folder.write_record(setup.folder, record)
        yield previous


def _existing_record(setup: Setup) -> run_folder.RunRecord | None:
    """Return the record in the run folder; raise ValueError if it is of another run."""
    folder = setup.folder
    if (folder / run_folder.RECORD_FILE).exists():
        record = run_folder.read_record(folder)
        differences = run_folder.config_differences(record.config, setup.config)
        if record.class_names != setup.train_source.class_names:
            differences.append("the classes of the data")
        if differences:
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(differences)}); "
                "choose another --workdir."
            )
        return record
    own = {folder / run_folder.LOCK_FILE, folder / run_folder.HOSTS_FOLDER}
    if folder.exists() and any(path not in own for path in folder.iterdir()):
        raise ValueError(
            f"{folder} is not empty and is not a run folder; choose another --workdir."
        )
    return None


def current_session(setup: Setup) -> run_folder.Session:
    """Return the devices, processes and versions that train the run now."""
    return run_folder.Session(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        devices=describe(setup.devices),
        processes=jax.process_count(),
        versions=run_folder.package_versions(),
        code=run_folder.code_version(),
    )
