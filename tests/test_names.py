# SPDX-License-Identifier: Apache-2.0
"""Hostile file, class and run names are shown as text and do no harm."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import simplejpeg

from experiments import accuracy, curves, evaluate, recalibrate, run
from experiments.reports import escape_cell, escape_markdown
from experiments.residual_scaling.show import report
from inception_jax.cli import main as cli
from inception_jax.models.zoo import SPECS
from inception_jax.storage.files import append_json_line, read_json_lines
from inception_jax.text import one_line, printable
from inception_jax.training.fit import fit
from tests.experiments.made_records import hostile_records
from tests.experiments.test_report import Page
from tests.models.tiny import one_block

CLASSES = (
    "<script>alert(1)<script>",
    '"onload="alert(1)',
    "..",  # within the name below; alone it is a folder's parent
    "[click](javascript:alert(1))",
    "two\nlines",
    "\x1b[31mred\x1b]0;title\x07",
    "turned\u202eround",
    "no utf-8 \udcff",
    "a | b",
    r"$\frac$",
    "long" * 60,
)
NAMES = tuple(f"x{name}x" for name in CLASSES)
# Names of the data folder and of a run; a run's path must not be a glob pattern.
FOLDER = '<script>\x1b[31m|](\n\u202e$\\frac$"..x'
RUN = '<script>\x1b]0;title\x07|](\n\u202e$frac$"..x'
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of images whose classes and files have these names."""
    pixels = bytes(range(256)) * 3
    jpeg = simplejpeg.encode_jpeg(memoryview(pixels).cast("B", (16, 16, 3)))
    for split in ("train", "val"):
        for name in NAMES:
            folder = tmp_path / FOLDER / split / name
            folder.mkdir(parents=True)
            (folder / f"{name[:200]}.jpg").write_bytes(jpeg)
        (folder / f"bad {NAMES[5]}.jpg").write_bytes(b"no image")
    return tmp_path / FOLDER


def test_from_a_folder_to_the_tables(hostile, tmp_path, monkeypatch, capsys):
    """All commands on a folder whose name, classes and files are hostile."""
    monkeypatch.setitem(
        SPECS, "inception_v4", one_block(image_shape=(8, 8, 3), num_classes=11)
    )
    before = {path for path in tmp_path.rglob("*") if hostile not in path.parents}
    workdir, table = tmp_path / "runs" / RUN, tmp_path / f"{RUN}.md"
    data, skip = f"folder:{hostile}", ("--on-bad-image", "skip")
    size = ("--batch-size", "8", "--steps", "2", "--log-every", "1")
    command = ["inception_v4", "--data", data, "--workdir", str(workdir), *size]
    assert run.main([*command, *skip]) == 0
    assert evaluate.main([str(workdir), *skip]) == 0
    line = (read_json_lines(workdir / "evaluations.jsonl"))[0]
    assert line["data"] == data
    assert accuracy.main([str(workdir), "--out", str(table)]) == 0
    assert curves.main([str(workdir), "--out", str(table.with_suffix(".png"))]) == 0
    assert evaluate.main([str(workdir), "--data", "digits"]) == 2  # names the classes
    assert evaluate.main([str(workdir), "--exclude", str(listed(tmp_path))]) == 2
    for main in (evaluate.main, accuracy.main, curves.main):
        assert main([str(tmp_path / NAMES[5])]) == 2
    assert recalibrate.main([NAMES[5], "--out", str(tmp_path / "new")]) == 2
    with pytest.raises(SystemExit, match="1"):
        cli.main(["data", "check", data, "--read", "all"])
    with pytest.raises(SystemExit, match="2"):
        cli.main(["networks", NAMES[5]])
    said = "".join(capsys.readouterr())
    assert not UNSAFE.search(said)
    assert r"\x1b[31m" in said
    assert "Traceback" not in said
    assert "<script" not in table.read_text()
    assert "](" not in table.read_text()
    made = {path for path in tmp_path.rglob("*") if hostile not in path.parents} - before
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {
        *("runs", f"{RUN}.md", f"{RUN}.png", "listed.txt")
    }


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b", "a?b", r"..\up", "no utf-8 \udcff"])
def test_folders_in_which_no_checkpoint_would_be_found(tiny, tmp_path, name):
    """They are rejected before anything is written, also by `recalibrate`."""
    with pytest.raises(ValueError, match="could not be read back"):
        fit(replace(tiny, workdir=tmp_path / name))
    with pytest.raises(ValueError, match="could not be read back"):
        recalibrate.Options(Path("run"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def listed(folder: Path) -> Path:
    (folder / "listed.txt").write_text(repr(NAMES[5]) + NAMES[5], encoding="utf-8")
    return folder / "listed.txt"


def test_a_study_that_others_recorded(tmp_path, capsys):
    """The pages show whatever is in runs.jsonl as text, and load nothing."""
    words = "".join(NAMES)
    for record in hostile_records(words).values():
        append_json_line(tmp_path / "runs.jsonl", record)
    assert report.main(tmp_path, "quick") == 0
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "a"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert any("<script>alert(1)<script>" in part for part in page.words)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "](javascript" not in text
    assert not UNSAFE.search("".join(page.words) + text)
    tables = [row for row in text.splitlines() if "alert(1)" in row and row[0] == "|"]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in tables} == {4, 8}
    changed = {**record, "run": record["run"] | {"network": words}}
    (tmp_path / "runs.jsonl").write_text(json.dumps(changed) + "\n")
    capsys.readouterr()
    assert report.main(tmp_path, "quick") == 2
    said = capsys.readouterr().err
    assert "line 1 is not a valid run: network must be C or" in said
    assert not UNSAFE.search(said)


def test_text_is_made_printable():
    assert printable("é ü 字 ✔\n\tok") == "é ü 字 ✔\n\tok"
    assert printable("a\x1b[0m\r\x00\x9b\u2028\u202e\udcff") == (
        r"a\x1b[0m\r\x00\x9b\u2028\u202e\udcff"
    )
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert escape_markdown("p < 0.001, <b>, </b>, <!-- [a](b)\n") == (
        r"p < 0.001, &lt;b>, &lt;/b>, &lt;!-- [a]\(b)\n"
    )
    assert escape_cell("a | <i>") == r"a \| &lt;i>"
