# SPDX-License-Identifier: Apache-2.0
"""README, pages, report and notebook tell one story with the same numbers."""

from dataclasses import fields

import nbformat
import numpy as np
import pandas as pd
import pytest

from experiments.residual_scaling.design.claims import CLAIMS
from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.judge.tables import read_tables, run_id
from experiments.residual_scaling.judge.tests import judge_claims
from experiments.residual_scaling.run.records import read_records
from experiments.residual_scaling.show import pages
from experiments.residual_scaling.show.summary import sentences

RESULTS = pages.FOLDER / "results"
STUDY = (pages.FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return read_tables(RESULTS / "full")[0]


@pytest.fixture(scope="module")
def lines(runs) -> list[str]:
    return sentences(runs, judge_claims(runs, PLANS["full"].claims))


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: str(path.parent.name))
def test_the_pages_are_filled_from_the_results(path, runs):
    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- end -->") >= 1
    filled = pages.filled(text, pages.blocks(runs))
    assert filled == text, "run python -m experiments.residual_scaling.show.pages"


def test_a_block_is_filled_and_nothing_else_changes():
    page = "a <!-- x -->old<!-- end --> b\n<!-- y -->\nold\n<!-- end -->\nc\n"
    expected = "a <!-- x -->1<!-- end --> b\n<!-- y -->\n2\n3\n<!-- end -->\nc\n"
    texts = {"x": "1", "y": "2\n3"}
    assert pages.filled(page, texts) == expected
    assert pages.filled(expected, texts) == expected
    empty = "<!-- x --><!-- end --> and <!-- y -->\n<!-- end -->"
    assert pages.filled(empty, texts) == (
        "<!-- x -->1<!-- end --> and <!-- y -->\n2\n3\n<!-- end -->"
    )


def test_report_and_notebook_have_the_sentences(lines):
    report = (RESULTS / "full" / "report.md").read_text(encoding="utf-8")
    notebook = nbformat.read(pages.ROOT / "notebooks" / "residual_scaling.ipynb", 4)
    outputs = [
        output["data"]["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    for line in lines:
        assert f"- {line}\n" in report
        assert line in "".join(outputs)


def test_the_readme_shows_the_main_figure():
    readme = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    picture = RESULTS / "full" / "pictures" / "dead_share.png"
    assert f"({picture.relative_to(pages.ROOT)})" in readme
    assert picture.exists()


def test_every_claim_is_on_the_page_once():
    for claim in CLAIMS:
        if claim in PLANS["full"].claims:
            assert STUDY.count(claim.text) == 1


@pytest.mark.parametrize("plan", sorted(p.name for p in RESULTS.iterdir() if p.is_dir()))
def test_committed_runs_are_runs_of_their_plan(plan):
    """The identifier is computed from the fields, so none was altered."""
    runs, probes = read_tables(RESULTS / plan)
    planned = {run_id(run): run for run in PLANS[plan].runs}
    assert set(runs["id"]) <= set(planned)
    assert set(probes["id"]) == set(runs["id"])
    for row in runs.to_dict("records"):
        run = planned[row["id"]]
        for field in fields(Run):
            value = getattr(run, field.name)
            assert row[field.name] == value or (value is None and pd.isna(row[field.name]))


def test_the_tables_are_those_of_the_records(runs):
    records = read_records(RESULTS / "full" / "runs.jsonl")
    assert [run_id(run) for run in records] == runs["id"].tolist()
    shares = [record["probes"]["pool_dead"][-1] for record in records.values()]
    shares = np.where(runs["diverged"], 1.0, np.array(shares, float))
    np.testing.assert_allclose(runs["dead_share"], shares, rtol=1e-3)
