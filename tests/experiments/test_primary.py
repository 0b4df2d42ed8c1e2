# SPDX-License-Identifier: Apache-2.0
"""The preregistered tests, on runs of known construction."""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.residual_scaling import primary
from experiments.residual_scaling.plans import FULL, PLANS, STALE
from experiments.residual_scaling.primary import COMPARISONS, run_tests
from experiments.residual_scaling.records import read_records
from experiments.residual_scaling.runs import Run

RECORDS = Path(primary.__file__).parent / "results" / "full"


def runs_of(
    setting: Run,
    seeds: range,
    dead: float,
    step: float = 0.0,
    loss: float = 2.31,
    outcome: str = "half dead",
) -> list[dict]:
    """Return rows of runs whose dead shares differ by `step` from seed to seed."""
    return [
        asdict(replace(setting, seed=seed))
        | {"final_pool_dead": dead + i * step, "final_loss": loss, "outcome": outcome}
        for i, seed in enumerate(seeds)
    ]


def results(narrow: float = 0.2, pairs: int = 10, scaled: float = 0.1) -> pd.DataFrame:
    full, stale = range(100, 100 + pairs), range(110, 110 + pairs)
    rows = runs_of(FULL, full, 0.96, 0.001)
    rows += runs_of(replace(FULL, scale=0.1), full, scaled, 0.01)
    rows += runs_of(replace(FULL, width=536), full, narrow)
    rows += runs_of(STALE, stale, 0.97)
    rows += runs_of(replace(STALE, scale=0.1), stale, 0.0)
    rows += runs_of(replace(STALE, replicas=1), stale, 0.97)
    return run_tests(pd.DataFrame(rows))


def test_ten_pairs_of_one_sign():
    table = results()
    assert table["verdict"].tolist() == ["reproduced"] * 3 + ["undecided"]
    # Ten differences of one sign: two of 2**10 sign patterns are as extreme.
    assert table["p"][0] == pytest.approx(2 / 1024)
    assert table["p_holm"][0] == pytest.approx(4 * 2 / 1024)
    assert table["p"][3] == 1.0
    assert table["dead where it dies"][0] == "0.96 [0.96, 0.97]"
    counts = ["10 and 0", "10 and 0", "10 and 0", "10 and 10"]
    assert table["collapsed at 0.95"].tolist() == counts
    assert table["collapsed at 0.99"].tolist() == ["0 and 0"] * 4


def test_the_opposite_and_too_few_runs():
    assert results(scaled=1.0)["verdict"][0] == "contradicted"
    # Narrow networks that die less, but die, do not survive.
    assert results(narrow=0.95)["verdict"][1] == "contradicted"
    unfinished = results(pairs=9)
    assert set(unfinished["verdict"]) == {"unfinished"}
    assert unfinished["p_holm"].isna().all()


def test_runs_that_learn_have_not_collapsed_and_diverged_runs_have():
    seeds = range(100, 110)
    rows = runs_of(FULL, seeds, 0.96, loss=2.0)
    rows += runs_of(replace(FULL, scale=0.1), seeds, float("nan"), outcome="diverged")
    table = run_tests(pd.DataFrame(rows))
    assert table["collapsed at 0.95"][0] == "0 and 10"
    assert table["dead where it lives"][0] == "1.00 [1.00, 1.00]"
    assert table["verdict"][0] == "contradicted"


def test_tables_are_written(tmp_path, capsys):
    """From records of real runs, as the command reads them."""
    assert primary.main(RECORDS, tmp_path) == 0
    runs, tests = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("runs", "tests"))
    assert len(runs) == len(read_records(RECORDS / "runs.jsonl"))
    assert tests["claim"].tolist() == [c.claim for c in COMPARISONS]
    assert primary.main(tmp_path / "none") == 2
    assert "no finished runs; train them with --plan full" in capsys.readouterr().err


def test_the_plan_has_the_runs_of_every_test():
    planned = {run for group in PLANS["full"].groups for run in group.runs}
    for comparison in COMPARISONS:
        for setting in (comparison.dies, comparison.lives):
            assert {replace(setting, seed=seed) for seed in comparison.seeds} <= planned
