# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.show.pages`: put the results into the pages.

The README, the index of experiments and the study's page have blocks between two comments.
This command fills them from the tables in `results/full`, so that all pages state the same
numbers. It changes nothing else.
"""

import re
import sys
from pathlib import Path

import pandas as pd

from experiments.reports import escape_cell
from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.settings import FULL
from experiments.residual_scaling.judge.tables import read_tables, runs_of
from experiments.residual_scaling.judge.tests import judge_claims
from experiments.residual_scaling.show.summary import claim_lines, sentences
from inception_jax.runtime.stopping import run_command
from inception_jax.training.stability import random_stability_limit, stability_limit

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "experiments" / "residual_scaling"
RESULTS = FOLDER / "results" / "full"
PAGES = (ROOT / "README.md", ROOT / "experiments" / "README.md", FOLDER / "README.md")
PROG = "python -m experiments.residual_scaling.show.pages"


def blocks(runs: pd.DataFrame) -> dict[str, str]:
    """Return the text of each block from a table of runs."""
    claims = judge_claims(runs, PLANS["full"].claims)
    lines = sentences(runs, claims)
    table = ["| claim | setting | verdict | evidence | pairs |", "|---|---|---|---|---:|"]
    for line in claim_lines(claims):
        cells = (
            line[name] for name in ("claim", "setting", "verdict", "evidence", "pairs")
        )
        table.append(f"| {' | '.join(escape_cell(cell) for cell in cells)} |")
    return {
        "finding": " ".join(lines[:2]),
        "answer": lines[0],
        "sentences": "\n".join(f"- {line}" for line in lines),
        "claims": "\n".join(table),
        "theory": theory(runs),
    }


def theory(runs: pd.DataFrame) -> str:
    """Compare the curvature at the start of the unscaled full networks with its limits."""
    curvature = round(runs_of(runs, FULL)["curvature_at_start"].median(), -2)
    rate, momentum = FULL.learning_rate, FULL.momentum
    limit, stale = stability_limit(momentum), random_stability_limit(momentum, 20)
    return (
        f"Gradient descent with momentum {momentum:g} is stable while the product of "
        f"learning rate and curvature is below {limit:.1f}; with 20 replicas in random "
        f"order, while it is below {stale:.3f}. Unscaled full networks start with a "
        f"curvature of the classifier's loss of about {curvature:,.0f}, so a rate of "
        f"{rate:g} exceeds the first limit {rate * curvature / limit:.0f}-fold. The "
        f"largest stable rate is {limit / curvature:.5f} without and "
        f"{stale / curvature:.7f} with replicas. A warm-up at 0.00001 is therefore stable "
        "without replicas and unstable "
        'with them, which may be why the paper found it "not sufficient".'
    )


def filled(page: str, texts: dict[str, str]) -> str:
    """Return a page with the blocks that it has filled with `texts`.

    A block is on its own lines or, if it begins and ends within a line, within it.
    """
    for name, text in texts.items():
        pattern = rf"(<!-- {name} -->)(\n?).*?\n?(<!-- end -->)"

        def fill(match: re.Match[str], text: str = text) -> str:
            return f"{match[1]}{match[2]}{text}{match[2]}{match[3]}"

        page = re.sub(pattern, fill, page, flags=re.DOTALL)
    return page


def main() -> int:
    """Fill the blocks of all pages."""

    def fill_pages() -> None:
        texts = blocks(read_tables(RESULTS)[0])
        for path in PAGES:
            text = path.read_text(encoding="utf-8")
            path.write_text(filled(text, texts), encoding="utf-8")
            print(f"Wrote {path.relative_to(ROOT)}")

    return run_command(PROG, fill_pages, if_interrupted="some pages may be old")


if __name__ == "__main__":
    sys.exit(main())
