# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.report FOLDER`: the report of a study.

Writes into that folder, from its records: report.html, a self-contained page; report.md
with its figures in pictures/; and the tables runs.csv, probes.csv and verdicts.csv.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Options:
    """Write the report of a study from its records."""

    # Folder of the study, with runs.jsonl.
    folder: Annotated[Path, tyro.conf.Positional]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; return 2 on bad input."""
    program = "python -m experiments.residual_scaling.report"
    try:
        folder = tyro.cli(Options, prog=program, args=arguments).folder
        records = read_records(records_file(folder))
        if not records:
            raise ValueError(
                f"{folder} has no runs.jsonl with finished runs; name a study's folder."
            )
        note = folder / LEFT_OUT
        left_out = note.read_text(encoding="utf-8").splitlines() if note.exists() else []
        pages = write_report(folder, records, judge(records), left_out)
    except (ValueError, OSError) as error:
        print(f"residual_scaling.report: {printable(error)}", file=sys.stderr)
        return 2
    print(f"Wrote {', '.join(map(printable, pages))}")
    return 0


def write_report(
    folder: Path, records: Records, verdicts: Sequence[Verdict], left_out: Sequence[str]
) -> list[Path]:
    """Write pages, figures and tables into a folder; return the pages and tables.

    `left_out` describes the parts of the plan that were not run. It is saved in the folder,
    so that the report can be written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEFT_OUT).write_text("".join(f"{s}\n" for s in left_out), encoding="utf-8")
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for path in pictures.glob("*.png"):
        path.unlink()  # from an earlier report
    content = contents(records, verdicts) | {"left_out": list(left_out)}
    content["pictures"] = [_page_picture(picture, pictures) for picture in draw(records)]
    pages = [folder / "report.html", folder / "report.md"]
    for page in pages:
        is_html = page.suffix == ".html"
        escape = printable if is_html else escape_markdown
        templates = template_environment(TEMPLATES, escape, is_html=is_html)
        templates.filters["cell"] = escape_cell
        text = templates.get_template(f"{page.name}.jinja").render(content)
        page.write_text(text, encoding="utf-8")
    return pages + write_tables(folder, records, verdicts)


def _page_picture(picture: Picture, folder: Path) -> dict[str, Any]:
    """Write a figure; return its texts and data for the pages."""
    texts = {n: getattr(picture, n) for n in ("name", "title", "caption", "alt", "missing")}
    if picture.figure is None:
        return texts
    return texts | save_figure(picture.figure, folder / f"{picture.name}.png")


if __name__ == "__main__":
    raise SystemExit(main())
