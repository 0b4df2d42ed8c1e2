# SPDX-License-Identifier: Apache-2.0
"""Records of finished runs, one JSON line each.

A record holds:
  run: the fields of `Run`.
  settings: settings shared by all runs of a folder.
  classes: the number of classes.
  loss, grad_norm: of the training batches, each the mean of `loss_every` steps, up to the
    first loss that is not finite; None if the mean is not finite.
  probes: lists with one entry per probe, computed with batch statistics on fixed images:
    step, accuracy, loss and the signals of `inception_jax.training.diagnostics`; `dead` has
    one number for each block, from input to output.
  test: sums over the test images, with moving averages, after the last step, and `dead`,
    the share of channels before the pool that are zero for all of them.
  seconds, devices, versions.
"""

from pathlib import Path
from typing import Any

from experiments.residual_scaling.design.runs import DEFAULTS, Run
from inception_jax.storage.files import read_json_lines
from inception_jax.training.metrics import means

Record = dict[str, Any]
FILE = "runs.jsonl"


def read_records(path: Path) -> dict[Run, Record]:
    """Return the finished runs of a file of records; a missing file has none.

    Raises ValueError if a line is not the record of a run of this version of the study.
    """
    records = {}
    for number, record in enumerate(read_json_lines(path), start=1):
        run = record.get("run")
        if not isinstance(run, dict) or set(run) != set(DEFAULTS):
            raise ValueError(
                f"{path}, line {number} is not a run of this version of the study; choose "
                "another folder."
            )
        try:
            records[Run(**run)] = record
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a valid run: {error}") from None
    return records


def test_accuracy(record: Record) -> float:
    """Return the top-1 accuracy on the test images after the last step."""
    return means(record["test"])["top1"]
