# SPDX-License-Identifier: Apache-2.0
"""Tables of the study: runs.csv, probes.csv and verdicts.csv."""

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.residual_scaling.outcomes import WINDOW
from experiments.residual_scaling.records import (
    Record,
    Records,
    signal,
    steps_taken,
    test_accuracy,
    training_loss,
)
from experiments.residual_scaling.runs import DEFAULTS, LATER_FIELDS, Run
from experiments.residual_scaling.verdicts import Verdict
from inception_jax.text import one_line
from inception_jax.training.diagnostics import BLOCK_SIGNALS


def write_tables(folder: Path, records: Records, verdicts: Sequence[Verdict]) -> list[Path]:
    """Write the three tables and return their paths.

    Missing numbers are empty cells; an empty `scale` means the scales as published.
    """
    tables = {
        "runs.csv": [run_row(run, record) for run, record in records.items()],
        "probes.csv": [row for run, r in records.items() for row in probe_rows(run, r)],
        "verdicts.csv": [verdict_row(verdict) for verdict in verdicts],
    }
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return [folder / name for name in tables]


def run_id(run: Run) -> str:
    """Return a short identifier of a run, computed from its fields."""
    # Later fields count only if they are set, so that earlier identifiers stay the same.
    values = {
        name: value
        for name, value in asdict(run).items()
        if name not in LATER_FIELDS or value != DEFAULTS[name]
    }
    text = json.dumps(values, sort_keys=True)
    # The letter keeps spreadsheets from reading an identifier as a number.
    return "a" + hashlib.blake2s(text.encode(), digest_size=4).hexdigest()


def run_row(run: Run, record: Record) -> dict[str, Any]:
    """Return a row of runs.csv."""
    loss = training_loss(record)
    last = -(-WINDOW // record["loss_every"])  # means that cover the last steps
    finite = loss[np.isfinite(loss)]
    return {
        "id": run_id(run),
        **asdict(run),
        **{n: record[n] for n in ("outcome", "death_step", "recovered", "spikes")},
        "steps_taken": steps_taken(record),
        "final_loss": _rounded(loss[-last:].mean()),
        "highest_loss": _rounded(max(finite, default=None)),
        "test_accuracy": _rounded(test_accuracy(record)),
        "final_pool_dead": _rounded(signal(record, "pool_dead")[-1]),
        "curvature_at_start": _rounded(signal(record, "curvature")[0]),
        "seconds": record["seconds"],
        "devices": one_line(record["devices"]),
        "jax": one_line(record["versions"]["jax"]),
    }


def probe_rows(run: Run, record: Record) -> Iterator[dict[str, Any]]:
    """Yield the rows of probes.csv for a run, one for each probe.

    Of the signals by block only `dead` is included; runs.jsonl has all of them.
    """
    probes = record["probes"]
    scalars = [name for name in probes if name not in (*BLOCK_SIGNALS, "step")]
    for i, step in enumerate(probes["step"]):
        row = {"id": run_id(run), "step": int(step)}
        row |= {name: _rounded(probes[name][i]) for name in scalars}
        blocks = enumerate(probes["dead"][i], start=1)
        yield row | {f"dead_{block}": _rounded(value) for block, value in blocks}


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Return a row of verdicts.csv."""
    row = {"claim": verdict.number, "words": verdict.claim}
    for name in ("setting", "test", "evidence", "verdict", "qualifier", "seeds"):
        row[name] = getattr(verdict, name)
    p_values = {"p": _rounded(verdict.p), "p_holm": _rounded(verdict.p_holm)}
    return row | p_values | {"details": "; ".join(verdict.details)}


def _rounded(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"
