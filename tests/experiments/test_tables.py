# SPDX-License-Identifier: Apache-2.0
"""Tables and figures from records in this file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import accuracy, curves
from experiments.paper import CURVES, TABLES
from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.models.zoo import SPECS
from inception_jax.storage.files import append_json_line
from inception_jax.storage.run_folder import RunRecord, write_record

V4, V2 = "inception_v4", "inception_resnet_v2"


def sums(top1: float, top5: float, loss: float | None = 100.0) -> dict[str, Any]:
    """Return the sums of 100 images for errors in percent."""
    hits = {"top1_sum": 100.0 - top1, "top5_sum": 100.0 - top5}
    return {"loss_sum": loss, **hits, "count": 100.0}


def evaluation(run: str, top1: float, **changes: Any) -> dict[str, Any]:
    return {
        **{"networks": [V4], "runs": [run], "data": "imagenet2012", "split": "eval"},
        **{"excluded": 0, "skipped": [], "crops": 144},
        **{"raw": sums(99.0, 98.0), "ema": sums(top1, top1 / 2)},
        **changes,
    }


def rows(records: list[dict[str, Any]], number: int) -> list[str]:
    """Return our cells of the rows that have results."""
    text = accuracy.render_tables(records)[list(TABLES).index(number)]
    assert text.startswith(f"**Table {number}**")
    cells = [line.split(" | ") for line in text.splitlines()[4:]]
    return [" ".join(row[3:]).removesuffix(" |") for row in cells if row[-1][0] in "123456"]


def test_the_newest_evaluation_of_each_run_and_the_deviation_of_runs():
    records = [evaluation("a", 50.0), evaluation("b", 20.0), evaluation("a", 30.0)]
    # The deviation of two values is their distance over the root of two.
    assert rows(records, 4) == ["25.00 ± 7.07 12.50 ± 3.54 2"]
    assert rows(records[:1], 4) == ["50.00 25.00 1"]


def test_each_table_selects_its_evaluations():
    """By crops; on ImageNet, only Table 2 excludes images."""
    ensemble = {"networks": [V2, V4, V2, V2], "runs": [*"dabc"]}
    records = [
        evaluation("a", 10.0, crops=1),
        evaluation("a", 11.0, crops=1, excluded=1700),
        evaluation("a", 12.0, crops=12),
        evaluation("a", 13.0, crops=12, excluded=1700),
        evaluation("a", 14.0),
        evaluation("a", 16.0, **ensemble),
        evaluation("a", 17.0, **ensemble | {"networks": [V2, V4, V2]}),
    ]
    found = {number: rows(records, number) for number in TABLES}
    assert found == {
        2: ["11.00 5.50 1"],
        3: ["12.00 6.00 1"],
        4: ["14.00 7.00 1"],
        5: ["16.00 8.00 1"],
    }
    # Other data have no list of images to exclude.
    other = [evaluation("a", 10.0, crops=1, data="imagenette")]
    assert rows(other, 2) == ["10.00 5.00 1"]


def test_tables_show_published_but_not_raw_weights():
    published = evaluation("models/a", 50.0)
    published["published"] = published.pop("ema")
    del published["raw"]
    raw = evaluation("models/b", 20.0)
    del raw["ema"]
    assert rows([published, raw], 4) == ["50.00 25.00 1"]


def test_an_evaluation_with_a_nan_loss():
    assert rows([evaluation("a", 10.0, ema=sums(99.0, 95.0, None))], 4) == ["99.00 95.00 1"]


def test_a_file_of_other_records(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"kind": "train", "step": 1})
    assert accuracy.main([str(path), "--out", str(tmp_path / "table.md")]) == 2
    assert "holds records that are not evaluations" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two evaluations, the first with a NaN loss."""
    config = RunConfig(network=V4, workdir=tmp_path / "run")
    config.workdir.mkdir()
    record = RunRecord(config, PreprocessSpec(), ("a",), 2, 100, 4, ())
    write_record(config.workdir, record)
    for line in (
        {"kind": "train", "step": 1, "epoch": 0.5},
        {"kind": "eval", "epoch": 1.0, "raw": sums(9, 9), "ema": sums(99, 95, None)},
        {"kind": "eval", "epoch": 2.0, "raw": sums(9, 9), "ema": sums(50, 25)},
    ):
        append_json_line(config.workdir / "metrics.jsonl", line)
    return config.workdir


@pytest.mark.parametrize(("number", "errors"), [(23, [99, 50]), (24, [95, 25])])
def test_a_figure_is_the_error_of_averaged_weights_over_epochs(run, number, errors):
    axes = Figure().subplots()
    one = curves.read_run(run)
    curves._draw_panel(axes, number, CURVES[number], [one], on_imagenet=True)
    ours, paper, not_run, other = axes.lines
    np.testing.assert_allclose(ours.get_xdata(), [1.0, 2.0])
    np.testing.assert_allclose(ours.get_ydata(), errors)
    metric = CURVES[number].metric
    assert paper.get_ydata()[0] == {"top1": 20.0, "top5": 5.0}[metric]
    assert not_run.get_label() == f"{V2}: not run"
    assert other.get_ydata()[0] == {"top1": 19.9, "top5": 4.9}[metric]


def test_runs_of_other_data_or_networks(run, tmp_path):
    one = curves.read_run(run)
    digits = replace(one.record, config=replace(one.record.config, data="digits"))
    with pytest.raises(
        ValueError, match=r"different data \(digits, imagenet2012\) cannot share"
    ):
        curves.draw([one, replace(one, record=digits)], tmp_path / "curves.png")
    config = replace(one.record.config, network="facenet")
    write_record(run, replace(one.record, config=config))
    with pytest.raises(
        ValueError, match="trained facenet; Figs 21 to 26 show inception_v3"
    ):
        curves.read_run(run)


def test_figures_are_those_of_the_paper():
    """Figs 21 and 22 show one pair of networks, 23 and 24 the other, 25 and 26 all."""
    for number, figure in CURVES.items():
        assert figure.title.lower().startswith(f"{figure.metric[:3]}-{figure.metric[3]}")
        assert len(figure.networks) == (4 if number > 24 else 2)
    for odd in (21, 23):
        assert CURVES[odd].networks == CURVES[odd + 1].networks
    assert not set(CURVES[21].networks) & set(CURVES[23].networks)


def test_the_paper_s_tables():
    """The networks exist, top-5 is below top-1, and Table 5 has the ensemble."""
    for table in TABLES.values():
        assert table.views in (1, 12, 144)
        for row in table.rows:
            assert set(row.networks) <= set(SPECS)
            assert row.top1 is None or row.top5 < row.top1 < 30
    assert TABLES[5].rows[-1][1:] == (
        ("inception_v4", *["inception_resnet_v2"] * 3),
        *(16.5, 3.1),
    )
    assert set(CURVES) == set(range(21, 27))


def test_tables_and_curves_need_runs(tmp_path, capsys):
    assert accuracy.main([str(tmp_path)]) == 2
    assert "holds no evaluations" in capsys.readouterr().err
    assert curves.main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
