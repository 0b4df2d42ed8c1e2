# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.accuracy RUN...`: Tables 2 to 5, the paper's values beside ours.

Made from the records that `experiments.evaluate` writes; ours are the averaged weights of a
run, as in the paper, or the published ones of a model folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments.command import run_command
from experiments.paper import TABLES, Row, Table
from experiments.reports import escape_markdown
from inception_jax.storage.jsonl import read_json_lines
from inception_jax.storage.run_folder import evaluations_path
from inception_jax.text import printable
from inception_jax.training.metrics import means

IMAGENET = "imagenet2012"


@dataclass(frozen=True)
class Options:
    """Print Tables 2 to 5 and write them as Markdown."""

    # Folders of runs, or files with evaluations.
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("runs/accuracy.md")

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one folder of a run, such as runs/digits.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input."""

    def do() -> None:
        options = tyro.cli(Options, prog="python -m experiments.accuracy", args=arguments)
        text = "\n\n".join(render_tables(read_evaluations(options.runs)))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
        print(printable(f"{text}\n\nWrote {options.out}"))

    return run_command("experiments.accuracy", do, if_interrupted="nothing was written")


def read_evaluations(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Records of all runs. Raises ValueError naming a run that was not evaluated."""
    found = []
    for path in paths:
        file = evaluations_path(path) if path.is_dir() else path
        records = read_json_lines(file)
        if not records:
            raise ValueError(
                f"{path} holds no evaluations; python -m experiments.evaluate {path} "
                "makes one, of a model folder in runs/evaluations.jsonl."
            )
        if not all("crops" in record for record in records):
            raise ValueError(f"{path} holds other records than evaluations.")
        found += records
    return found


def render_tables(records: Sequence[dict[str, Any]]) -> list[str]:
    """Tables 2 to 5 in Markdown, once for each data set that was evaluated on."""
    sets = sorted({(record["data"], record["split"]) for record in records})
    return [
        render_table(number, table, data, split, records)
        for data, split in sets
        for number, table in TABLES.items()
    ]


def render_table(
    number: int,
    table: Table,
    data: str,
    split: str,
    records: Sequence[dict[str, Any]],
) -> str:
    """One table: errors in percent, with their standard deviation over several runs."""
    chosen = [
        record
        for record in records
        if (record["data"], record["split"], record["crops"]) == (data, split, table.views)
        and _averaged(record)
        # The list of excluded images is ImageNet's; no other data has one.
        and (bool(record["excluded"]) == table.excludes or data != IMAGENET)
    ]
    counts = sorted({int(_averaged(record)["count"]) for record in chosen})
    images = " or ".join(map(str, counts)) or "no"
    note = "" if data == IMAGENET else "; other data, not to be compared"
    lines = [
        f"**Table {number}**: {table.title}. Paper: ImageNet 2012. "
        f"Ours: {escape_markdown(f'{data} {split}')}, {images} images{note}.",
        "",
        "| network | paper top-1 | paper top-5 | ours top-1 | ours top-5 | runs |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        theirs = "-" if row.top1 is None else f"{row.top1:.1f}"
        ours = _ours(row, chosen)
        lines.append(f"| {row.label} | {theirs} | {row.top5:.1f} | {' | '.join(ours)} |")
    return "\n".join(lines)


def _averaged(record: dict[str, Any]) -> dict[str, float] | None:
    """Sums with averaged or published weights; None where there are only raw ones."""
    return record.get("ema") or record.get("published")


def _ours(row: Row, records: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    if not row.networks:
        return "not in this project", "", ""
    # The newest evaluation of each run, or of each set of runs.
    same = {
        tuple(record["runs"]): means(_averaged(record))
        for record in records
        if sorted(record["networks"]) == sorted(row.networks)
    }
    if not same:
        return "not run", "not run", "0"
    errors = {
        name: [100 * (1 - mean[name]) for mean in same.values()]
        for name in ("top1", "top5")
    }
    cells = [
        f"{np.mean(values):.2f}"
        + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
        for values in errors.values()
    ]
    return cells[0], cells[1], str(len(same))


if __name__ == "__main__":
    raise SystemExit(main())
