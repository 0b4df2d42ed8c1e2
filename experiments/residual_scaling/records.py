# SPDX-License-Identifier: Apache-2.0
"""What is on record of a run, one JSON line each, and how to look at many of them.

A record holds:
  run: the fields of `Run`.
  settings: what all runs of a folder share.
  loss, grad_norm: of the training batches, means of `loss_every` steps each, up to the
    first loss that is not finite; None where a mean is not.
  probes: lists with one entry a probe, of fixed images, batch statistics as in training:
    step, accuracy and loss; the signals of `inception_jax.training.diagnostics`, those of
    blocks with one number for each block, from input to output.
  test: sums over the test images, with moving averages, after the last step.
  outcome, death_step, recovered, spikes: see outcomes.py.
  seconds, devices, versions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.runs import Run
from inception_jax.storage.jsonl import read_json_lines
from inception_jax.training.metrics import means

Record = dict[str, Any]
Records = Mapping[Run, Record]


# Labels of earlier versions, which also called a run "arm" and the file arms.jsonl.
EARLIER_OUTCOMES = {"part dead": Outcome.HALF_DEAD, "scarred": Outcome.IMPAIRED}


def records_file(folder: Path) -> Path:
    """Return the file of a study folder that holds its records, one JSON line per run."""
    earlier = folder / "arms.jsonl"
    return earlier if earlier.exists() else folder / "runs.jsonl"


def read_records(path: Path) -> dict[Run, Record]:
    """Read the finished runs from a file of records.

    Raises ValueError if a line is not the record of a run of this version of the study.
    """
    records = {}
    names = {field.name for field in fields(Run)}
    for number, record in enumerate(read_json_lines(path), start=1):
        if "arm" in record:
            record = {"run": record.pop("arm"), **record}
            record["outcome"] = EARLIER_OUTCOMES.get(record["outcome"], record["outcome"])
        if not isinstance(record.get("run"), dict) or set(record["run"]) != names:
            raise ValueError(
                f"{path}, line {number} is not a run of this version of the study; choose "
                "another --workdir."
            )
        try:
            records[Run(**record["run"])] = record
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a valid run: {error}") from None
    return records


def select(records: Records, **fixed: Any) -> dict[Run, Record]:
    """Runs whose fields have the given values."""
    return {
        run: record
        for run, record in records.items()
        if all(getattr(run, name) == value for name, value in fixed.items())
    }


def settings_in(records: Iterable[Run]) -> list[Run]:
    """The different settings of some runs, in their order, each as its run of seed 0."""
    return list(dict.fromkeys(run.setting for run in records))


def seeds_of(records: Records, setting: Run) -> dict[int, Record]:
    """The repetitions of a setting, by seed."""
    return {
        run.seed: record
        for run, record in records.items()
        if run.setting == setting.setting
    }


def steps_taken(record: Record) -> int:
    """The steps of a run, or those to its first loss that is not finite."""
    diverged = record["outcome"] == Outcome.DIVERGED
    return record["death_step"] if diverged else record["run"]["steps"]


def training_loss(record: Record) -> np.ndarray:
    """Loss of the training batches on record, in nats; NaN where it was not finite."""
    return np.array(record["loss"], float)


def loss_steps(record: Record) -> np.ndarray:
    """The last step of those that each number of `training_loss` is the mean of."""
    steps = np.arange(1, len(record["loss"]) + 1) * record["loss_every"]
    return np.minimum(steps, steps_taken(record))


def signal(record: Record, name: str) -> np.ndarray:
    """A signal over the probes, `[probes]` or `[probes, blocks]`."""
    return np.array(record["probes"][name], float)


def test_accuracy(record: Record) -> float:
    """Share of the test images whose class was found, after the last step."""
    return means(record["test"])["top1"]


def mean_over(records: Iterable[Record], value: Callable[[Record], float]) -> float:
    """Mean of `value` over records; NaN of none."""
    values = [value(record) for record in records]
    return float(np.mean(values)) if values else float("nan")
