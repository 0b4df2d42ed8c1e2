# SPDX-License-Identifier: Apache-2.0
"""Recompute moving averages: `python -m experiments.recalibrate RUN --out DIR`.

The means and variances of batch norm are computed over training batches with fixed weights,
for the raw and for the averaged weights. DIR becomes a run with the weights of RUN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from inception_jax.data.batches import train_batches, train_iterator
from inception_jax.data.open_source import open_source
from inception_jax.inference.batch_norm_modes import recalibrate_statistics
from inception_jax.inference.evaluate import load_state, trained_model
from inception_jax.runtime import compile_cache
from inception_jax.runtime.devices import all_devices
from inception_jax.runtime.stopping import run_command
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.orbax_files import check_checkpoint_path
from inception_jax.storage.run_folder import CHECKPOINTS_FOLDER, write_record
from inception_jax.text import printable
from inception_jax.training.step import Batch


@dataclass(frozen=True)
class Options:
    """Recompute the moving averages of batch norm of a run, and save them as a new run."""

    # Run folder to read.
    run: Annotated[Path, tyro.conf.Positional]
    # Run folder to create.
    out: Path
    # Number of training batches, of the run's batch size, to average over.
    batches: int = 100

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"batches must be 1 or more, got {self.batches}.")
        if self.out.exists():
            raise ValueError(f"{self.out} already exists; choose another --out.")
        check_checkpoint_path(self.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        prog = "python -m experiments.recalibrate"
        options = tyro.cli(Options, prog=prog, args=arguments)
        compile_cache.enable()
        run(options)

    return run_command(
        "experiments.recalibrate", action, if_interrupted="nothing was written"
    )


def run(options: Options) -> None:
    """Compute the statistics, then write the new run."""
    devices = all_devices()
    restored = load_state(options.run, devices)
    record = restored.record
    trained = trained_model(options.run, restored.state, restored.step)
    config = record.config
    source = open_source(config.data, config.train_split, config.data_dir)
    dataset = train_batches(
        source,
        preprocess=record.preprocess,
        augment=config.augment,
        batch_size=config.batch_size,
        seed=config.seed,
        on_bad_image=config.on_bad_image,
    )

    def batches(weights: str) -> Iterator[Batch]:
        iterator = train_iterator(dataset, start_step=0, workers=config.workers)
        for batch in tqdm(
            islice(iterator, options.batches), weights, options.batches, disable=None
        ):
            yield {name: x for name, x in batch.items() if name != "skipped"}

    stats = {
        weights: recalibrate_statistics(trained.model, variables, batches(weights), devices)
        for weights, variables in trained.variables.items()
    }
    state = restored.state._replace(batch_stats=stats["raw"], ema_batch_stats=stats["ema"])
    options.out.mkdir(parents=True)
    with Checkpoints(options.out / CHECKPOINTS_FOLDER, keep=1) as checkpoints:
        checkpoints.save(restored.step, state)
    write_record(options.out, replace(record, config=replace(config, workdir=options.out)))
    out = printable(options.out)
    print(
        f"Computed batch statistics over {options.batches} batches of {config.batch_size} "
        f"training images and wrote {out}. Next: python -m experiments.evaluate {out}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
