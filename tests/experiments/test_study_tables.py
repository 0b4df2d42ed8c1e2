# SPDX-License-Identifier: Apache-2.0
"""The tables of the study hold the records."""

import csv
from pathlib import Path

import pytest

from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.tables import run_id, run_row, write_tables
from experiments.residual_scaling.verdicts import CLAIMS, Verdict, not_tested

VERDICTS = [
    Verdict(6, "a", "t", "5/5", "reproduced", "", 5, 0.008, 0.0004, details=("d", "e")),
    not_tested(3, "no such run"),
]


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_tables(folder, records, VERDICTS)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_runs_table_against_the_records(records, folder):
    table = rows(folder / "runs.csv")
    assert len({row["id"] for row in table}) == len(table) == len(records)
    for row, (run, record) in zip(table, records.items(), strict=True):
        assert int(row["width"]) == run.width
        assert row["scale"] == ("" if run.scale is None else str(run.scale))
        assert row["outcome"] == record["outcome"]
        assert float(row["test_accuracy"]) == pytest.approx(
            record["test"]["top1_sum"] / record["test"]["count"], rel=1e-3
        )
        losses = record["loss"]
        if None in losses:
            assert row["final_loss"] == ""
        else:
            assert float(row["final_loss"]) == pytest.approx(
                sum(losses[-10:]) / 10, rel=1e-3
            )
        highest = max(x for x in losses if x is not None)
        assert float(row["highest_loss"]) == pytest.approx(highest, rel=1e-3)
        assert float(row["final_pool_dead"]) == pytest.approx(
            record["probes"]["pool_dead"][-1], rel=1e-3
        )
        assert float(row["curvature_at_start"]) == pytest.approx(
            record["probes"]["curvature"][0], rel=1e-3
        )


def test_probes_table_against_the_records(records, folder):
    table = iter(rows(folder / "probes.csv"))
    for run, record in records.items():
        probes = record["probes"]
        for i, step in enumerate(probes["step"]):
            row = next(table)
            assert (row["id"], row["step"]) == (run_id(run), str(step))
            for block in range(run.depth):
                value = float(row[f"dead_{block + 1}"])
                assert value == pytest.approx(probes["dead"][i][block], rel=1e-3)
            loss, change = probes["loss"][i], probes["function_change"][i]
            assert row["loss"] == ("" if loss is None else f"{loss:.4g}")
            assert row["function_change"] == ("" if change is None else f"{change:.4g}")
    assert next(table, None) is None
    assert "stream_rms" not in row


def test_verdicts_table(folder):
    table = rows(folder / "verdicts.csv")
    assert [row["claim"] for row in table] == ["6", "3"]
    assert table[0]["words"] == CLAIMS[6]
    assert [row["p_holm"] for row in table] == ["0.0004", ""]
    assert table[0]["details"] == "d; e"


def test_run_ids_depend_on_all_fields():
    runs = [Run(), Run(seed=1), Run(scale=None), Run(scale=0.1), Run(clip_norm=1.0)]
    assert len({run_id(run) for run in runs}) == len(runs)
    assert not any(name[0].isdigit() for name in map(run_id, runs))


def test_a_thinned_loss_curve_keeps_its_steps(records):
    run, record = next((a, r) for a, r in records.items() if None not in r["loss"])
    thinned = record | {"loss_every": 5, "loss": record["loss"][4::5]}
    row = run_row(run, thinned)
    assert row["steps_taken"] == run.steps
    assert float(row["final_loss"]) == pytest.approx(
        sum(thinned["loss"][-2:]) / 2, rel=1e-3
    )
