# SPDX-License-Identifier: Apache-2.0
"""Records of finished runs, one JSON line each, and selections from them.

A record holds:
  run: the fields of `Run`.
  settings: settings shared by all runs of a folder.
  loss, grad_norm: of the training batches, each the mean of `loss_every` steps, up to the
    first loss that is not finite; None if the mean is not finite.
  probes: lists with one entry per probe, computed with batch statistics on fixed images:
    step, accuracy, loss and the signals of `inception_jax.training.diagnostics`; signals of
    blocks have one number for each block, from input to output.
  test: sums over the test images, with moving averages, after the last step.
  outcome, death_step, recovered, spikes: see outcomes.py.
  seconds, devices, versions.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.runs import DEFAULTS, LATER_FIELDS, Run
from inception_jax.storage.files import read_json_lines
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
    for number, record in enumerate(read_json_lines(path), start=1):
        if "arm" in record:
            record = {"run": record.pop("arm"), **record}
            record["outcome"] = EARLIER_OUTCOMES.get(record["outcome"], record["outcome"])
        run = record.get("run")
        if not isinstance(run, dict) or set(run) | LATER_FIELDS != set(DEFAULTS):
            raise ValueError(
                f"{path}, line {number} is not a run of this version of the study; choose "
                "another folder."
            )
        try:
            records[Run(**record["run"])] = record
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a valid run: {error}") from None
    return records


def select(records: Records, **fixed: Any) -> dict[Run, Record]:
    """Select the runs whose fields have the given values."""
    return {
        run: record
        for run, record in records.items()
        if all(getattr(run, name) == value for name, value in fixed.items())
    }


def settings_in(records: Iterable[Run]) -> list[Run]:
    """Return the different settings of runs in order, each as its run with seed 0."""
    return list(dict.fromkeys(run.setting for run in records))


def steps_taken(record: Record) -> int:
    """Return the steps of a run, up to its first loss that is not finite."""
    diverged = record["outcome"] == Outcome.DIVERGED
    return record["death_step"] if diverged else record["run"]["steps"]


def training_loss(record: Record) -> np.ndarray:
    """Return the training loss in nats, NaN where it was not finite."""
    return np.array(record["loss"], float)


def signal(record: Record, name: str) -> np.ndarray:
    """Return a signal over the probes, `[probes]` or `[probes, blocks]`."""
    return np.array(record["probes"][name], float)


def test_accuracy(record: Record) -> float:
    """Return the top-1 accuracy on the test images after the last step."""
    return means(record["test"])["top1"]
