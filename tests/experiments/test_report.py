# SPDX-License-Identifier: Apache-2.0
"""The report: pages, tables, figures and command."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.judge import compare
from experiments.residual_scaling.judge.tables import probe_table, run_table
from experiments.residual_scaling.show import report
from experiments.residual_scaling.show.summary import sentences
from inception_jax.storage.files import append_json_line
from tests.experiments.made_records import FULL_PLAN, made_records

RECORDS = made_records(FULL_PLAN)


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    runs, probes = run_table(RECORDS), probe_table(RECORDS)
    paths = report.write_report(folder, PLANS["full"], runs, probes)
    assert all(path.stat().st_size for path in paths)
    return folder


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_figure_and_sentences_come_first(folder, text):
    claims = report.judge_claims(run_table(RECORDS), PLANS["full"].claims)
    lines = sentences(run_table(RECORDS), claims)
    assert 3 <= len(lines) <= 5
    places = [text.index(f"- {line}\n") for line in lines]
    assert text.index("dead_share.png") < places[0]
    assert places == sorted(places)
    assert places[-1] < text.index("## Claims")


def test_every_claim_is_one_line(folder, text):
    table = text[text.index("## Claims") :].split("\n\n")[1].splitlines()[2:]
    assert len(table) == len(PLANS["full"].claims)
    tests = pd.read_csv(folder / "tests.csv")
    for row, claim in zip(table, tests.to_dict("records"), strict=True):
        assert claim["claim"] in row
        assert f"**{claim['verdict']}**" in row


def test_pictures_and_tables_are_those_of_the_text(folder, text):
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert {name for name in pictures if f"(pictures/{name})" in text} == pictures
    assert len(pictures) >= 4
    assert len(pd.read_csv(folder / "runs.csv")) == len(RECORDS)
    assert f"{len(RECORDS)} runs." in text


def test_runs_left_out_are_counted(text):
    missing = text[text.index("<summary>Runs left out") :].split("</details>")[0]
    planned = PLANS["full"].groups
    long = [g for g in planned if any(run not in RECORDS for run in g.runs)]
    assert missing.count("\n- ") == len(long) > 0
    for group in long:
        count = sum(run not in RECORDS for run in group.runs)
        assert f"{group.question}: {count} of {len(group.runs)} runs" in missing


def test_the_page_is_the_text_and_loads_nothing(page, text):
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert tags.count("img") == text.count("](pictures/")
    assert tags.count("details") == text.count("<details>")
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert tags.count("td") > 100  # tables are tables


def test_the_command_reads_records_or_tables(tmp_path, folder, monkeypatch):
    for record in made_records(PLANS["quick"].runs).values():
        append_json_line(tmp_path / "runs.jsonl", record)
    assert report.main(tmp_path, "quick") == 0
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "tests.csv").exists()
    # The figures are those above and slow.
    monkeypatch.setattr(report, "draw_others", lambda *tables: iter(()))
    assert report.main(folder, "full", tmp_path / "again") == 0
    again = (tmp_path / "again" / "tests.csv").read_text()
    assert again == (folder / "tests.csv").read_text()


def test_mistakes_are_answered_in_a_sentence(tmp_path, capsys):
    assert report.main(tmp_path / "nowhere") == 2
    assert "has no finished runs; name the folder of a study" in capsys.readouterr().err
    assert report.main(tmp_path, "cpv") == 2
    assert "plan must be one of quick, main" in capsys.readouterr().err
    (tmp_path / "runs.jsonl").write_text(json.dumps({"run": {"depth": 4}}) + "\n")
    assert report.main(tmp_path) == 2
    assert "line 1 is not a run of this version" in capsys.readouterr().err
    command = [sys.executable, "-m", "experiments.residual_scaling.show.report", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "Plan whose claims are tested" in result.stdout


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "id\n"], ids=repr)
def test_foreign_tables_are_answered_in_a_sentence(tmp_path, capsys, text):
    for name in ("runs.csv", "probes.csv"):
        (tmp_path / name).write_text(text)
    assert report.main(tmp_path) == 2
    assert re.search("cannot be read|no tables of this version", capsys.readouterr().err)
    assert not (tmp_path / "report.md").exists()


def test_runs_of_two_data_sets_are_answered_in_a_sentence(tmp_path, capsys):
    plans = PLANS["quick"], PLANS["quick"].on_data("folder:flowers")
    for record in made_records([run for plan in plans for run in plan.runs]).values():
        append_json_line(tmp_path / "runs.jsonl", record)
    assert report.main(tmp_path, "quick") == 2
    assert "they are of digits, folder:flowers" in capsys.readouterr().err


def test_only_figures_of_an_earlier_report_are_replaced(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("holiday.png", "claims.png"):
        (pictures / name).write_text("old")
    records = made_records(PLANS["quick"].runs)
    report.write_report(tmp_path, PLANS["quick"], run_table(records), probe_table(records))
    assert (pictures / "holiday.png").read_text() == "old"
    assert not (pictures / "claims.png").exists()  # the plan has no claims


def test_a_repetition_is_compared_run_by_run():
    records = made_records(PLANS["main"].runs)
    committed = run_table(records)
    again = committed.copy()
    again.loc[0, ["dead_share", "collapsed"]] = [0.5, False]
    lines = compare.compare(again, committed, "main")
    assert lines[0] == f"{len(committed)} runs are in both tables."
    assert "largest 47" in lines[1]
    assert lines[2] == "Collapsed in one table only: 1 runs."
    assert "reproduced, again reproduced" in lines[-1]
    with pytest.raises(ValueError, match="no run in common"):
        compare.compare(again.assign(id="x"), committed, "main")
