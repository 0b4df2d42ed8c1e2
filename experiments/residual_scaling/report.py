# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.report FOLDER`: the report of a study.

Made from the runs on record in the folder: report.html, one file that loads nothing;
report.md, the same with its pictures beside it; runs.csv, probes.csv, verdicts.csv.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import tyro

from experiments.reports import (
    escape_cell,
    escape_markdown,
    save_figure,
    template_environment,
)
from experiments.residual_scaling.claims import judge
from experiments.residual_scaling.contents import contents
from experiments.residual_scaling.figures import Picture, draw
from experiments.residual_scaling.records import Records, read_records, records_file
from experiments.residual_scaling.tables import write_tables
from experiments.residual_scaling.verdicts import Verdict
from inception_jax.text import printable

LEFT_OUT = "left_out.txt"
PICTURES = "pictures"  # the folder of the Markdown page's


@dataclass(frozen=True)
class Options:
    """Make the report of a study anew from the runs on record."""

    # The folder with runs.jsonl.
    folder: Annotated[Path, tyro.conf.Positional]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input."""
    program = "python -m experiments.residual_scaling.report"
    try:
        folder = tyro.cli(Options, prog=program, args=arguments).folder
        records = read_records(records_file(folder))
        if not records:
            raise ValueError(
                f"{folder} holds no runs.jsonl with runs on record; name the --workdir of "
                "a study."
            )
        note = folder / LEFT_OUT
        left_out = note.read_text(encoding="utf-8").splitlines() if note.exists() else []
        written = write_report(folder, records, judge(records), left_out)
    except (ValueError, OSError) as error:
        print(f"residual_scaling.report: {printable(error)}", file=sys.stderr)
        return 2
    print(f"Wrote {', '.join(map(printable, written))}")
    return 0


def write_report(
    folder: Path, records: Records, verdicts: Sequence[Verdict], left_out: Sequence[str]
) -> list[Path]:
    """Write pages, pictures and tables of a study into a folder; returns pages and tables.

    `left_out`: a sentence for each part of the plan that was not run; kept in the folder,
    so that the report can be made again from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEFT_OUT).write_text("".join(f"{s}\n" for s in left_out), encoding="utf-8")
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    for path in pictures.glob("*.png"):
        path.unlink()  # of an earlier report
    content = contents(records, verdicts) | {"left_out": list(left_out)}
    content["pictures"] = [_page_picture(picture, pictures) for picture in draw(records)]
    pages = [folder / "report.html", folder / "report.md"]
    for page in pages:
        template = _pages(page.name).get_template(f"{page.name}.jinja")
        page.write_text(template.render(content), encoding="utf-8")
    return pages + write_tables(folder, records, verdicts)


def _pages(name: str) -> jinja2.Environment:
    is_html = name.endswith(".html")
    words = printable if is_html else escape_markdown
    pages = template_environment(
        Path(__file__).parent / "templates", words, is_html=is_html
    )
    pages.filters["cell"] = escape_cell
    return pages


def _page_picture(picture: Picture, folder: Path) -> dict[str, Any]:
    """Write a picture; returns what a page that holds its pictures says of it."""
    words = {n: getattr(picture, n) for n in ("name", "title", "caption", "alt", "missing")}
    if picture.figure is None:
        return words
    return words | save_figure(picture.figure, folder / f"{picture.name}.png")


if __name__ == "__main__":
    raise SystemExit(main())
