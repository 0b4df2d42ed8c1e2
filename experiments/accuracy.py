# SPDX-License-Identifier: Apache-2.0
"""Make Tables 2 to 5 with our results: `python -m experiments.accuracy RUN...`.

The results are the records that `experiments.evaluate` writes. They are those of averaged
weights, as in the paper, or of published weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments.paper import TABLES, Row, Table
from experiments.reports import escape_markdown
from inception_jax.runtime.stopping import run_command
from inception_jax.storage.files import read_json_lines
from inception_jax.storage.run_folder import EVALUATIONS_FILE
from inception_jax.text import printable
from inception_jax.training.metrics import means

IMAGENET = "imagenet2012"


@dataclass(frozen=True)
class Options:
    """Print Tables 2 to 5 with our results, and write them as Markdown."""

    # Run folders, or files that experiments.evaluate wrote.
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # Markdown file to write.
    out: Path = Path("runs/accuracy.md")

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one run folder, such as runs/digits.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        options = tyro.cli(Options, prog="python -m experiments.accuracy", args=arguments)
        text = "\n\n".join(render_tables(read_evaluations(options.runs)))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
        print(printable(f"{text}\n\nWrote {options.out}"))

    return run_command("experiments.accuracy", action, if_interrupted="nothing was written")


def read_evaluations(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the evaluations of all runs. Raises ValueError if a run has none."""
    evaluations = []
    for path in paths:
        records = read_json_lines(path / EVALUATIONS_FILE if path.is_dir() else path)
        if not records:
            raise ValueError(
                f"{path} holds no evaluations; python -m experiments.evaluate {path} makes "
                "one. For a model folder, name runs/evaluations.jsonl instead."
            )
        if not all("crops" in record for record in records):
            raise ValueError(f"{path} holds records that are not evaluations.")
        evaluations += records
    return evaluations


def render_tables(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return Tables 2 to 5 in Markdown, once for each split that was evaluated."""
    splits = sorted({(record["data"], record["split"]) for record in records})
    return [
        render_table(number, table, data, split, records)
        for data, split in splits
        for number, table in TABLES.items()
    ]


def render_table(
    number: int, table: Table, data: str, split: str, records: Sequence[dict[str, Any]]
) -> str:
    """Return one table: errors in percent, with standard deviations over several runs."""
    chosen = [
        record
        for record in records
        if (record["data"], record["split"], record["crops"]) == (data, split, table.views)
        and _sums(record)
        # Only ImageNet has a list of images to exclude.
        and (bool(record["excluded"]) == table.excludes or data != IMAGENET)
    ]
    counts = sorted({int(_sums(record)["count"]) for record in chosen})
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
        top1 = "-" if row.top1 is None else f"{row.top1:.1f}"
        ours = " | ".join(_our_cells(row, chosen))
        lines.append(f"| {row.label} | {top1} | {row.top5:.1f} | {ours} |")
    return "\n".join(lines)


def _sums(record: dict[str, Any]) -> dict[str, float] | None:
    """Return the sums of averaged or published weights; None if there are only raw ones."""
    return record.get("ema") or record.get("published")


def _our_cells(row: Row, records: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    if not row.networks:
        return "not in this project", "", ""
    newest = {}  # evaluation of each run, or of each ensemble of runs
    for record in records:
        if sorted(record["networks"]) == sorted(row.networks):
            newest[tuple(record["runs"])] = means(_sums(record))
    if not newest:
        return "not run", "not run", "0"
    top1, top5 = (
        _mean_and_deviation([100 * (1 - mean[name]) for mean in newest.values()])
        for name in ("top1", "top5")
    )
    return top1, top5, str(len(newest))


def _mean_and_deviation(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.2f}"
    return f"{text} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else text


if __name__ == "__main__":
    raise SystemExit(main())
