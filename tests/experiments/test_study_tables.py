# SPDX-License-Identifier: Apache-2.0
"""The tables of the study hold the records of real runs."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.judge.tables import (
    SIGNALS,
    probe_table,
    read_tables,
    run_id,
    run_table,
    runs_of,
    write_tables,
)
from tests.experiments.tiny_study import RUN


@pytest.fixture(scope="module")
def tables(whole, tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("tables")
    records = whole[1]
    write_tables(folder, run_table(records), probe_table(records))
    return read_tables(folder)


def test_runs_against_the_records(whole, tables):
    runs, _ = tables
    assert len(runs) == len(set(runs["id"])) == len(whole[1])
    for row, (run, record) in zip(runs.to_dict("records"), whole[1].items(), strict=True):
        assert (row["id"], row["width"], row["scale"]) == (
            run_id(run),
            run.width,
            run.scale,
        )
        test = record["test"]
        assert row["test_accuracy"] == pytest.approx(test["top1_sum"] / test["count"], 1e-3)
        assert row["test_dead"] == pytest.approx(test["dead"], rel=1e-3)
        assert row["dead_share"] == pytest.approx(record["probes"]["pool_dead"][-1], 1e-3)
        assert row["final_loss"] == pytest.approx(sum(record["loss"]) / run.steps, 1e-3)
        assert row["highest_loss"] == pytest.approx(max(record["loss"]), rel=1e-3)
        curvature = record["probes"]["curvature"][0]
        assert row["curvature_at_start"] == pytest.approx(curvature, rel=1e-3)
        assert row["only_zeros"] == (row["dead_share"] == 1)
        assert row["classes"] == 10


def test_probes_against_the_records(whole, tables):
    _, probes = tables
    by_run = dict(list(probes.groupby("id")))
    assert len(by_run) == len(whole[1])
    for run, record in whole[1].items():
        part = by_run[run_id(run)]
        assert part["step"].tolist() == record["probes"]["step"]
        for name in SIGNALS:
            expected = pd.Series(record["probes"][name], dtype=float)
            assert part[name].tolist() == pytest.approx(
                expected.tolist(), rel=1e-3, nan_ok=True
            )


def test_runs_of_a_setting_differ_only_in_their_seed(tables):
    runs, _ = tables
    chosen = runs_of(runs, RUN)
    assert chosen["seed"].tolist() == [0, 1]
    assert set(chosen["scale"]) == {1.0}
    assert runs_of(runs, replace(RUN, clip_norm=1.0)).empty
    assert runs_of(runs.assign(clip_norm=1.0), RUN).empty
    published = runs.assign(scale=None)
    assert len(runs_of(published, replace(RUN, scale=None))) == 4


def test_run_ids_depend_on_all_fields():
    runs = [Run(), Run(seed=1), Run(scale=None), Run(scale=0.1), Run(clip_norm=1.0)]
    assert len({run_id(run) for run in runs}) == len(runs)
    assert not any(name[0].isdigit() for name in map(run_id, runs))
