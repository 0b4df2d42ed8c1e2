# SPDX-License-Identifier: Apache-2.0
"""The report of the study from made-up records: pages, tables, figures and command."""

import base64
import csv
import json
import math
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.residual_scaling import report
from experiments.residual_scaling.contents import contents
from experiments.residual_scaling.figures import PICTURES
from experiments.residual_scaling.records import read_records, records_file
from experiments.residual_scaling.records import test_accuracy as accuracy_of
from experiments.residual_scaling.report import main, write_report
from experiments.residual_scaling.tables import run_id
from experiments.residual_scaling.verdicts import CLAIMS, Verdict, not_tested
from tests.experiments.made_up import small

PNG = b"\x89PNG"
LEFT_OUT = ["The <b>long</b> runs & others."]
VERDICTS = [
    Verdict(6, "a", "t", "5/5 | 0/5", "reproduced", "", 5, 0.008, 0.0004, details=("d1",)),
    Verdict(6, "b", "t", "4/5", "undecided", "4 of 5 seeds", 4, 0.2, 0.6),
    Verdict(1, "c", "t", "0/5", "not reproduced", "", 5, 0.012, 0.03),
    Verdict(6, "d", "t", "5/5", "reproduced", "", 5, 0.008, 0.04),
    not_tested(3, "no such run"),
]


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_report(folder, records, VERDICTS, LEFT_OUT)
    return folder


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

    def every(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_made_up_records_contain_every_problem(records):
    outcomes = Counter(record["outcome"] for record in records.values())
    assert {"healthy", "impaired", "dead", "diverged"} <= set(outcomes)
    assert any(None in record["loss"] for record in records.values())
    assert any(len(r["loss"]) < run.steps for run, r in records.items())
    json.dumps(list(records.values()), allow_nan=False)  # as a file would hold it


def test_the_page_loads_nothing(page):
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    for address in page.every("src") + page.every("href"):
        assert address.startswith(("data:", "#"))
    text = "".join(page.words)
    assert "url(" not in text
    assert "@import" not in text


def test_every_link_of_the_page_has_a_target(page):
    ids = page.every("id")
    assert len(ids) == len(set(ids))
    links = [link[1:] for link in page.every("href") if link.startswith("#")]
    assert set(links) <= set(ids)
    assert {"claim-1", "claim-3", "claim-6", "pictures", "threats"} <= set(links)


def test_figures_of_the_page_have_texts_and_are_the_files(page, folder):
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    files = {path.read_bytes() for path in (folder / "pictures").glob("*.png")}
    data = [base64.b64decode(p["src"].partition("base64,")[2]) for p in pictures]
    assert set(data) == files
    assert all(image.startswith(PNG) for image in data)
    assert all(len(picture["alt"]) > 40 for picture in pictures)


def test_text_of_records_is_escaped(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "The &lt;b&gt;long&lt;/b&gt; runs &amp; others." in text
    assert "5/5 \\| 0/5" in (folder / "report.md").read_text(encoding="utf-8")


def test_both_pages_have_the_same_content_in_the_same_order(folder, page):
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    html = " ".join(" ".join(page.words).split())
    headings = [
        "Results",
        "The claims one by one",
        *(f"{number}. {CLAIMS[number]}" for number in (1, 3, 6)),
        *(kind.title for kind in PICTURES),
        "Settings and outcomes",
        "Settings of every run",
        "Runs left out",
        "Threats to validity",
    ]
    places = [markdown.index(f"# {heading}\n") for heading in headings]
    assert places == sorted(places)
    main_part = html[html.rindex("The claims one by one") :]
    places = [main_part.find(heading) for heading in headings[1:]]
    assert -1 not in places
    assert places == sorted(places)
    for path in (folder / "pictures").glob("*.png"):
        assert f"](pictures/{path.name})" in markdown


def test_the_summary_is_computed_from_the_verdicts(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert (
        "3 claims, 5 comparisons: 2 reproduced; 1 not reproduced; 1 undecided; "
        "1 not tested at this scale.\n"
    ) in text
    summary = text[text.index("## Results") : text.index("## The claims")]
    assert f"| 6. {CLAIMS[6]} | ✔ 2 reproduced; ? 1 undecided |\n" in summary
    assert f"| 1. {CLAIMS[1]} | △ 1 not reproduced |\n" in summary
    assert all(summary.count(f"| {number}. ") == 1 for number in (1, 3, 6))
    assert "| 0.008 | < 0.001 | 5 |" in text
    assert "undecided**: 4 of 5 seeds |" in text


def test_settings_of_every_run_are_on_the_page(records, page):
    words = Counter(page.words)
    for run, record in records.items():
        assert words[run_id(run)] == 1
        assert words[str(run)] >= 1
        assert record["devices"] in words
    assert words["optimizer.decay_rate"] == 1


def test_figures_without_runs_are_named_as_left_out(tmp_path):
    write_report(tmp_path, small(), [], [])
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {
        "loss_and_dead_elsewhere",
        "collapse",
    }
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    missing = [kind for kind in PICTURES if f"Left out: there are no {kind.needs}" in text]
    assert len(missing) == len(PICTURES) - 2
    assert "None: every run of the plan is recorded." in text
    assert "do not test any claim yet" in text


def test_figures_of_an_earlier_report_are_deleted(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old_1.png").write_bytes(PNG)
    write_report(tmp_path, small(), [], [])
    assert not (tmp_path / "pictures" / "old_1.png").exists()


def save(folder: Path, records: dict) -> None:
    lines = [json.dumps(record) + "\n" for record in records.values()]
    (folder / "runs.jsonl").write_text("".join(lines), encoding="utf-8")


def test_the_command_rewrites_the_report(tmp_path, capsys):
    save(tmp_path, small())
    (tmp_path / "left_out.txt").write_text("Wide runs.\nLong runs.\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name in ("report.html", "report.md", "runs.csv", "probes.csv", "verdicts.csv"):
        assert str(tmp_path / name) in said
        assert (tmp_path / name).stat().st_size > 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert "* Wide runs.\n* Long runs.\n" in before[tmp_path / "report.md"].decode()
    assert len({row["claim"] for row in rows(tmp_path / "verdicts.csv")}) == len(CLAIMS)
    assert main([str(tmp_path)]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_records_of_earlier_versions_are_read(tmp_path):
    (run, record), *_ = small().items()
    fields = record.pop("run")
    for label, outcome in (("part dead", "half dead"), ("scarred", "impaired")):
        line = json.dumps({"arm": fields, **record, "outcome": label})
        (tmp_path / "arms.jsonl").write_text(line + "\n", encoding="utf-8")
        (read,) = read_records(records_file(tmp_path)).items()
        assert read == (run, {"run": fields, **record, "outcome": outcome})


def test_the_command_line_runs_it(tmp_path):
    command = [sys.executable, "-m", "experiments.residual_scaling.report", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "has no runs.jsonl" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no runs.jsonl with finished runs; name a study's folder."),
        ('{"run": {"width": 8}}\n', "line 1 is not a run of this version of the study"),
        ("{\n", "line 1 is not JSON"),
    ],
)
def test_the_command_reports_errors_in_a_sentence(tmp_path, capsys, content, message):
    if content:
        (tmp_path / "runs.jsonl").write_text(content, encoding="utf-8")
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("report.*"))


def test_missing_numbers_are_marked():
    records = small()
    for record in records.values():
        record["test"]["top1_sum"] = None
    words = report.contents(records, [])
    assert {row["accuracy"] for row in words["settings"]} == {"?"}
    assert {row["interval"] for row in words["settings"]} == {"-"}
    assert math.isnan(accuracy_of(next(iter(records.values()))))


@pytest.mark.parametrize(("rate", "said"), [(0.045, False), (0.2, True)])
def test_threats_are_those_of_the_recorded_runs(rate, said):
    threats = " ".join(contents(small(learning_rate=rate), [])["threats"])
    assert ("behaves like the paper's rate" in threats) is said
    assert "Short runs" in threats
