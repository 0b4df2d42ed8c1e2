# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.show.report FOLDER`: the report of a study.

Writes report.md with its figures in pictures/, report.html (the same text as one
self-contained page), and the tables runs.csv, probes.csv and tests.csv.
"""

import base64
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from markdown_it import MarkdownIt

from experiments.reports import (
    escape_cell,
    escape_markdown,
    save_figure,
    template_environment,
)
from experiments.residual_scaling.design.plans import PLANS, Plan
from experiments.residual_scaling.design.runs import DEFAULTS
from experiments.residual_scaling.judge.outcomes import DEAD, GUESSING
from experiments.residual_scaling.judge.tables import (
    SIGNALS,
    probe_table,
    read_tables,
    run_id,
    run_table,
    settings_in,
    write_tables,
)
from experiments.residual_scaling.judge.tests import judge_claims
from experiments.residual_scaling.run.generated import GENERATED
from experiments.residual_scaling.run.records import FILE, read_records
from experiments.residual_scaling.show.figures import (
    PICTURES,
    Picture,
    draw_main,
    draw_others,
)
from experiments.residual_scaling.show.style import NETWORKS
from experiments.residual_scaling.show.summary import claim_lines, percent, sentences
from inception_jax.runtime.stopping import run_command
from inception_jax.text import first_few, printable

TEMPLATES = Path(__file__).parent / "templates"
PROG = "python -m experiments.residual_scaling.show.report"
IMAGE = re.compile(r'src="(pictures/[\w]+\.png)"')


def write_report(
    folder: Path, plan: Plan, runs: pd.DataFrame, probes: pd.DataFrame
) -> list[Path]:
    """Write pages, figures and tables into a folder; return the pages and tables.

    `runs` and `probes` are tables of `judge.tables`; the claims are those of the plan.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        (pictures / f"{name}.png").unlink(missing_ok=True)  # from an earlier report
    claims = judge_claims(runs, plan.claims)
    main = draw_main(runs)
    content = {
        "plan": plan.description,
        "picture": main and _saved(main, pictures),
        "sentences": sentences(runs, claims),
        "claims": claim_lines(claims) if len(claims) else [],
        "counts": claims.to_dict("records"),
        "pictures": [_saved(p, pictures) for p in draw_others(runs, probes, claims)],
        "settings": [_setting_row(*setting) for setting in settings_in(runs)],
        "missing": _missing(plan, runs),
        "machines": _machines(runs),
        "num_runs": len(runs),
        "dead": f"{100 * DEAD:.0f} %",
        "guessing": f"{100 * GUESSING:.0f} %",
    }
    templates = template_environment(TEMPLATES, escape_markdown, is_html=False)
    templates.filters["cell"] = escape_cell
    text = templates.get_template("report.md.jinja").render(content)
    (folder / "report.md").write_text(text, encoding="utf-8")
    pages = template_environment(TEMPLATES, str, is_html=False)
    page = pages.get_template("report.html.jinja")
    body = IMAGE.sub(partial(_embedded, folder), _html(text))
    (folder / "report.html").write_text(page.render(body=body), encoding="utf-8")
    if len(claims):
        claims.drop(columns="differences").to_csv(
            folder / "tests.csv", index=False, float_format="%.4g"
        )
    tests = [folder / "tests.csv"] if len(claims) else []
    texts = [folder / "report.html", folder / "report.md"]
    return [*texts, *write_tables(folder, runs, probes), *tests]


def _html(text: str) -> str:
    """Return Markdown as HTML, in which wide tables scroll."""
    html = MarkdownIt("commonmark").enable("table").render(text)
    return html.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


def _embedded(folder: Path, match: re.Match[str]) -> str:
    data = base64.b64encode((folder / match[1]).read_bytes()).decode()
    return f'src="data:image/png;base64,{data}"'


def _saved(picture: Picture, folder: Path) -> dict[str, Any]:
    save_figure(picture.figure, folder / f"{picture.name}.png")
    return {name: getattr(picture, name) for name in ("name", "title", "caption", "alt")}


def _setting_row(words: str, rows: pd.DataFrame) -> dict[str, Any]:
    counts = [
        f"{int(rows[name].astype(bool).sum())}"
        for name in ("collapsed_90", "collapsed", "collapsed_99", "only_zeros", "recovered")
    ]
    steps = rows["collapse_step"].dropna()
    return {
        "words": words,
        "runs": len(rows),
        "dead": percent(rows["dead_share"]),
        "counts": " / ".join(counts),
        "step": f"{steps.median():.0f}" if len(steps) else "-",
        "loss": f"{rows['final_loss'].median():.2f}",
        "accuracy": percent(rows["test_accuracy"]),
    }


def _missing(plan: Plan, runs: pd.DataFrame) -> list[str]:
    """Describe the planned runs that are not in the table, one line per group."""
    recorded, lines = set(runs["id"]), []
    for group in plan.groups:
        count = sum(run_id(run) not in recorded for run in group.runs)
        if count:
            lines.append(f"{group.question}: {count} of {len(group.runs)} runs")
    return lines


def _machines(runs: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"words": f"{devices}, jax {jax}", "runs": len(part),
         "minutes": f"{part['seconds'].sum() / 60:.0f}"}
        for (devices, jax), part in runs.groupby(["devices", "jax"], sort=False)
    ]  # fmt: skip


def report_on(folder: Path, plan: str, out: Path) -> None:
    """Write the report of a study folder into `out`.

    Raises ValueError if the plan is unknown or the folder has no finished runs.
    """
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {plan!r}.")
    records = read_records(folder / FILE)
    if records:
        runs, probes = run_table(records), probe_table(records)
    elif (folder / "runs.csv").exists():
        runs, probes = _read_tables(folder)
    else:
        raise ValueError(f"{folder} has no finished runs; name the folder of a study.")
    for path in write_report(out, PLANS[plan].on_data(_data(runs)), runs, probes):
        print(f"  {printable(path)}")


def _read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the tables of a folder; raise ValueError if they are not of this version."""
    try:
        runs, probes = read_tables(folder)
    except ValueError as error:  # of pandas
        raise ValueError(f"{folder}: a table cannot be read: {error}") from None
    expected = {*DEFAULTS, "id"} <= set(runs) and {"id", *SIGNALS} <= set(probes)
    if not expected or runs.empty or not set(runs["network"]) <= set(NETWORKS):
        raise ValueError(f"{folder} has no tables of this version of the study.")
    return runs, probes


def _data(runs: pd.DataFrame) -> str:
    """Return the data set of the runs; raise ValueError if there are two."""
    names = sorted(set(runs["data"].astype(str)) - set(GENERATED)) or ["digits"]
    if len(names) > 1:
        raise ValueError(
            f"the runs must be of one data set, but they are of {first_few(names)}."
        )
    return names[0]


def main(
    folder: tyro.conf.Positional[Path], plan: str = "main", out: Path | None = None
) -> int:
    """Write the report of a study.

    Args:
        folder: Folder with runs.jsonl, or with runs.csv and probes.csv.
        plan: Plan whose claims are tested.
        out: Folder for the report; by default that of the study.
    """
    action = partial(report_on, folder, plan, folder if out is None else out)
    return run_command(
        PROG, action, if_interrupted="the report is incomplete", extra="study"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog=PROG))
