# SPDX-License-Identifier: Apache-2.0
"""What is on record of an arm, one JSON line each, and how to look at many of them.

A record holds:
  arm: the fields of `Arm`.
  settings: what all arms of a folder share.
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

from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.outcomes import Outcome
from inception_jax.storage.jsonl import read_json_lines
from inception_jax.training.metrics import means

Record = dict[str, Any]
Records = Mapping[Arm, Record]


def read_records(path: Path) -> dict[Arm, Record]:
    """The arms on record in a file; ValueError on what another version wrote."""
    records = {}
    for number, record in enumerate(read_json_lines(path), start=1):
        known = {field.name for field in fields(Arm)}
        if not isinstance(record.get("arm"), dict) or set(record["arm"]) != known:
            raise ValueError(
                f"{path}, line {number} is no arm of this version of the study; choose "
                "another --workdir."
            )
        try:
            records[Arm(**record["arm"])] = record
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no arm: {error}") from None
    return records


def pick(records: Records, **fixed: Any) -> dict[Arm, Record]:
    """Arms whose fields have the given values."""
    return {
        arm: record
        for arm, record in records.items()
        if all(getattr(arm, name) == value for name, value in fixed.items())
    }


def settings_in(records: Iterable[Arm]) -> list[Arm]:
    """The different settings of some arms, in their order, each as its arm of seed 0."""
    return list(dict.fromkeys(arm.setting for arm in records))


def seeds_of(records: Records, setting: Arm) -> dict[int, Record]:
    """The repetitions of a setting, by seed."""
    return {
        arm.seed: record
        for arm, record in records.items()
        if arm.setting == setting.setting
    }


def steps_taken(record: Record) -> int:
    """The steps of an arm, or those to its first loss that is not finite."""
    diverged = record["outcome"] == Outcome.DIVERGED
    return record["death_step"] if diverged else record["arm"]["steps"]


def training_loss(record: Record) -> np.ndarray:
    """Loss of the training batches on record, in nats; NaN where it was not finite."""
    return np.array(record["loss"], float)


def loss_steps(record: Record) -> np.ndarray:
    """The last step of those that each number of `training_loss` is the mean of."""
    steps = np.arange(1, len(record["loss"]) + 1) * record["loss_every"]
    return np.minimum(steps, steps_taken(record))


def probed(record: Record, name: str) -> np.ndarray:
    """A signal over the probes, `[probes]` or `[probes, blocks]`."""
    return np.array(record["probes"][name], float)


def test_accuracy(record: Record) -> float:
    """Share of the test images whose class was found, after the last step."""
    return means(record["test"])["top1"]


def mean_over(records: Iterable[Record], value: Callable[[Record], float]) -> float:
    """Mean of `value` over records; NaN of none."""
    values = [value(record) for record in records]
    return float(np.mean(values)) if values else float("nan")
