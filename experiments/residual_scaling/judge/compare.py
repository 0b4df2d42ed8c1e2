# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.judge.compare FOLDER`: compare a repetition.

Compares the runs of a study folder with the same runs in committed results, and prints how
many outcomes and verdicts differ: the noise floor of the study.
"""

import sys
from pathlib import Path

import pandas as pd
import tyro

from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.judge.tables import read_tables
from experiments.residual_scaling.judge.tests import judge_claims
from inception_jax.runtime.stopping import run_command

RESULTS = Path(__file__).parents[1] / "results"
PROG = "python -m experiments.residual_scaling.judge.compare"


def compare(repeated: pd.DataFrame, committed: pd.DataFrame, plan: str) -> list[str]:
    """Return lines that say how two tables of runs differ.

    Raises ValueError if they have no run in common.
    """
    both = committed.merge(repeated, on="id", suffixes=("", "_again"))
    if both.empty:
        raise ValueError("the two tables have no run in common; choose another --plan.")
    change = (both["dead_share_again"] - both["dead_share"]).abs()
    flips = int((both["collapsed_again"] != both["collapsed"]).sum())
    lines = [
        f"{len(both)} runs are in both tables.",
        f"Dead share: median change {change.median():.1%}, largest {change.max():.1%}.",
        f"Collapsed in one table only: {flips} runs.",
    ]
    first, again = (
        judge_claims(runs, PLANS[plan].claims) for runs in (committed, repeated)
    )
    for old, new in zip(first.to_dict("records"), again.to_dict("records"), strict=True):
        inside = old["low"] <= new["difference"] <= old["high"]
        where = "inside" if inside else "outside"
        lines.append(
            f"{old['name']}: {old['verdict']}, again {new['verdict']}; the difference "
            f"{new['difference']:.3f} is {where} [{old['low']:.3f}, {old['high']:.3f}]."
        )
    return lines


def main(folder: tyro.conf.Positional[Path], plan: str = "main") -> int:
    """Compare the runs of a study with the committed results of the same plan.

    Args:
        folder: Folder of the repetition, with runs.csv.
        plan: Plan of both; its results are in results/PLAN.
    """

    def action() -> None:
        if plan not in PLANS:
            raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {plan!r}.")
        tables = (read_tables(place)[0] for place in (folder, RESULTS / plan))
        print("\n".join(compare(*tables, plan)))

    return run_command(PROG, action, if_interrupted="nothing was compared")


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog=PROG))
