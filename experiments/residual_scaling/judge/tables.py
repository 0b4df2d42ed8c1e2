# SPDX-License-Identifier: Apache-2.0
"""Tables of a study: one row per run, and one per probe."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.residual_scaling.design.runs import DEFAULTS, Run, describe_fields
from experiments.residual_scaling.judge.outcomes import (
    DEAD,
    OTHER_SHARES,
    collapse_step,
    dead_share,
    final_loss,
    has_collapsed,
    has_diverged,
    last_finite,
    steps_to,
)
from experiments.residual_scaling.run.records import Record
from inception_jax.text import one_line
from inception_jax.training.metrics import means

# Signals of the table of probes; runs.jsonl has more.
SIGNALS = (
    *("loss", "accuracy", "pool_dead", "feature_norm2", "curvature", "function_change"),
    *("update_ratio/classifier", "update_ratio/linear"),
)


def run_id(run: Run) -> str:
    """Return a short identifier of a run, computed from its fields."""
    text = json.dumps(asdict(run), sort_keys=True)
    # The letter keeps spreadsheets from reading an identifier as a number.
    return "r" + hashlib.blake2s(text.encode(), digest_size=4).hexdigest()


def run_table(records: Mapping[Run, Record]) -> pd.DataFrame:
    """Return one row per run: its fields, then its outcomes.

    `dead_share`, `final_loss`, `collapsed` (also at 90 and 99 % of the channels),
    `only_zeros` (100 %), `collapse_step` and `recovered`, `test_accuracy` and `test_dead`
    with moving averages, `steps_to_80` % accuracy, and the cost.
    """
    return pd.DataFrame([_run_row(run, record) for run, record in records.items()])


def _run_row(run: Run, record: Record) -> dict[str, Any]:
    dead, first = dead_share(record), collapse_step(record)
    collapsed = has_collapsed(record)
    probes = record["probes"]
    losses = np.array(record["loss"], float)
    finite = losses[np.isfinite(losses)]
    return {
        "id": run_id(run),
        **asdict(run),
        "data": one_line(run.data),
        "classes": record["classes"],
        "dead_share": dead,
        "final_loss": final_loss(record),
        "highest_loss": float(finite.max()) if len(finite) else math.nan,
        "diverged": has_diverged(record),
        "collapsed": collapsed,
        **{f"collapsed_{s * 100:.0f}": has_collapsed(record, s) for s in OTHER_SHARES},
        "only_zeros": dead == 1,
        "collapse_step": first,
        "recovered": first is not None and dead < DEAD,
        "test_accuracy": means(record["test"])["top1"],
        "test_dead": record["test"].get("dead", math.nan),
        "probe_accuracy": last_finite(probes["accuracy"]),
        "steps_to_80": steps_to(record, 0.8),
        "curvature_at_start": last_finite(probes["curvature"][:1]),
        "feature_norm2_at_start": last_finite(probes["feature_norm2"][:1]),
        "seconds": record["seconds"],
        "devices": one_line(record["devices"]),
        "jax": one_line(record["versions"]["jax"]),
    }


def probe_table(records: Mapping[Run, Record]) -> pd.DataFrame:
    """Return one row per probe: the run's `id`, the step, and `SIGNALS`."""
    frames = []
    for run, record in records.items():
        probes = record["probes"]
        missing = [None] * len(probes["step"])
        columns = {name: probes.get(name, missing) for name in SIGNALS}
        frame = pd.DataFrame({"step": probes["step"]} | columns)
        frame.insert(0, "id", run_id(run))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).astype(dict.fromkeys(SIGNALS, float))


def write_tables(folder: Path, runs: pd.DataFrame, probes: pd.DataFrame) -> list[Path]:
    """Write runs.csv and probes.csv; missing numbers are empty cells."""
    tables = {"runs.csv": runs, "probes.csv": probes}
    for name, table in tables.items():
        table.to_csv(folder / name, index=False, float_format="%.4g")
    return [folder / name for name in tables]


def read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the tables of runs and of probes.

    Raises OSError if a table is missing.
    """
    return pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "probes.csv")


def runs_of(runs: pd.DataFrame, setting: Run) -> pd.DataFrame:
    """Return the runs of a setting: all fields but the seed are equal."""
    fields = {name: value for name, value in asdict(setting).items() if name != "seed"}
    chosen = pd.Series(True, index=runs.index)
    for name, value in fields.items():
        column = runs[name]
        chosen &= column.isna() if value is None else column == value
    return runs[chosen]


def settings_in(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the runs of each setting with its description, in the order of the table."""
    names = [name for name in DEFAULTS if name != "seed"]
    groups = []
    for _, rows in runs.groupby(names, dropna=False, sort=False):
        values = rows.iloc[0][["width", "scale", "learning_rate"]].to_dict()
        values |= {
            name: rows.iloc[0][name]
            for name in names
            if not pd.isna(rows.iloc[0][name]) and rows.iloc[0][name] != DEFAULTS[name]
        }
        if pd.isna(values["scale"]):
            values["scale"] = None
        groups.append((describe_fields(values), rows))
    return groups
