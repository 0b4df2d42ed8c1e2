# SPDX-License-Identifier: Apache-2.0
"""Made-up records of the study, for tests of tables, figures and reports."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.runs import Run

ACCURACIES = (0.1, 0.6, 0.85)  # on the probe images of a run that learns


def made_record(run: Run, dead: float) -> dict[str, Any]:
    """Return a record that ends with a share of dead channels, guessing if it is high."""
    dies = dead >= 0.95
    accuracies = (0.1,) * 3 if dies else ACCURACIES
    loss = 2.3 if dies else 0.5
    probes = {
        "step": [0, run.steps // 2, run.steps],
        "pool_dead": [0.0, dead, dead],
        "loss": [2.3, loss, loss],
        "accuracy": list(accuracies),
        "feature_norm2": [1000.0 * (run.scale or 1), 50.0, 20.0],
        "curvature": [40.0 * (run.scale or 1) * (1 + run.seed % 7), 5.0, 1.0],
    }
    right = 30.0 if dies else 260.0
    return {
        "run": asdict(run),
        "settings": {"probe_images": 64},
        "classes": 10,
        "loss_every": 1,
        "loss": [loss] * run.steps,
        "grad_norm": [1.0] * run.steps,
        "probes": probes,
        "test": {"count": 297.0, "top1_sum": right, "top5_sum": 290.0, "dead": dead}
        | {"loss_sum": 297.0 * loss},
        "seconds": 3.0,
        "devices": "2 x cpu",
        "versions": {"jax": "0.10.2"},
    }


def made_records(runs: Iterable[Run]) -> dict[Run, dict[str, Any]]:
    """Return records in which unscaled networks die if they are wide or have replicas."""
    records = {}
    for run in runs:
        dies = run.scale == 1 and (run.width > 1000 or run.replicas > 1)
        share = 0.97 if dies else 0.05
        records[run] = made_record(run, share + 0.001 * (run.seed % 10))
    return records


def short(runs: Iterable[Run]) -> list[Run]:
    """Return runs without those of more than 240 updates, whose records are long."""
    return [run for run in runs if run.steps <= 240]


FULL_PLAN = short(PLANS["full"].runs)
REMEDIES = short(PLANS["remedies"].runs)


def hostile_records(text: str) -> dict[Run, dict[str, Any]]:
    """Return records of a stranger who put `text` wherever a text can be."""
    runs = [replace(run, data=text) for run in PLANS["quick"].runs]
    return {
        run: made_record(run, 0.5) | {"devices": text, "versions": {"jax": text}}
        for run in runs
    }
