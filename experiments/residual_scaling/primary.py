# SPDX-License-Identifier: Apache-2.0
"""The preregistered tests: `python -m experiments.residual_scaling.primary FOLDER`.

PREREGISTRATION.md fixes the runs, the endpoint and the tests. The command prints the tests
of a study folder and writes them to `tests.csv`. It also writes `runs.csv`, the table of
runs that the report has.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from scipy import stats

from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.plans import FULL, STALE
from experiments.residual_scaling.records import Record, read_records, records_file
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import LEVEL, holm
from experiments.residual_scaling.tables import run_row
from inception_jax.runtime.stopping import run_command

DEAD = 0.95  # share of dead channels from which a run can be called collapsed
OTHER_SHARES = (0.90, 0.99)  # also counted, to show that the choice does not matter
GUESSING = 0.95 * math.log(10)  # final loss from which a run can be called collapsed
ENUMERATED = stats.PermutationMethod(n_resamples=10_000)  # more than the 2**10 sign changes
PROG = "python -m experiments.residual_scaling.primary"


@dataclass(frozen=True)
class Comparison:
    """A claim, and two settings whose dead shares differ according to it."""

    claim: str
    dies: Run  # the setting that has the larger dead share according to the claim
    lives: Run
    seeds: range
    # Whether the claim is contradicted if at least half of the runs of `lives` collapse.
    must_live: bool = False


COMPARISONS = (
    Comparison(
        "unscaled networks of more than 1000 filters die, and scaling saves them",
        FULL,
        replace(FULL, scale=0.1),
        range(100, 110),
    ),
    Comparison(
        "narrower networks survive",
        FULL,
        replace(FULL, width=536),
        range(100, 110),
        must_live=True,
    ),
    Comparison(
        "with stale gradients narrow networks die too, and scaling saves them",
        STALE,
        replace(STALE, scale=0.1),
        range(110, 120),
    ),
    Comparison(
        "staleness is the cause", STALE, replace(STALE, replicas=1), range(110, 120)
    ),
)


def frame_of(records: Mapping[Run, Record]) -> pd.DataFrame:
    """Return the table of runs, one row per run."""
    return pd.DataFrame([run_row(run, record) for run, record in records.items()])


def run_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per test; a test that lacks planned runs is unfinished.

    `frame` has the fields of each run, `final_pool_dead`, `final_loss` and `outcome`.
    """
    table = pd.DataFrame([_test(frame, comparison) for comparison in COMPARISONS])
    # Unfinished tests count as p = 1, so no result becomes stronger without them.
    corrected = pd.Series(holm(table["p"].fillna(1.0).tolist()))
    table["p_holm"] = corrected.where(table["p"].notna())
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table.drop(columns="contradicted")


def _test(frame: pd.DataFrame, comparison: Comparison) -> dict[str, Any]:
    dies, lives = (_outcomes(frame, run) for run in (comparison.dies, comparison.lives))
    seeds = [k for k in comparison.seeds if k in dies.index and k in lives.index]
    dies, lives = dies.loc[seeds], lives.loc[seeds]
    row: dict[str, Any] = {
        "claim": comparison.claim,
        "pairs": len(seeds),
        "planned": len(comparison.seeds),
        "dead where it dies": _median_and_range(dies["dead"]),
        "dead where it lives": _median_and_range(lives["dead"]),
    }
    for share in (DEAD, *OTHER_SHARES):
        counts = (_collapsed(part, share).sum() for part in (dies, lives))
        row[f"collapsed at {share:.2f}"] = " and ".join(map(str, counts))
    row |= {"p": math.nan, "difference": math.nan, "contradicted": False}
    if len(seeds) == len(comparison.seeds):
        difference = dies["dead"] - lives["dead"]
        row["difference"] = difference.median()
        # All sign changes are enumerated, so the test is exact even if values are equal.
        row["p"] = float(stats.wilcoxon(difference, method=ENUMERATED).pvalue)
        collapse = _collapsed(lives, DEAD).mean() >= 0.5
        row["contradicted"] = comparison.must_live and collapse
    return row


def _outcomes(frame: pd.DataFrame, setting: Run) -> pd.DataFrame:
    """Return dead share and final loss of the runs of a setting, by seed."""
    fields = {n: x for n, x in asdict(setting).items() if n != "seed" and x is not None}
    runs = frame[(frame[list(fields)] == pd.Series(fields)).all(axis=1)].set_index("seed")
    has_diverged = runs["outcome"] == Outcome.DIVERGED
    dead, loss = (pd.to_numeric(runs[n]) for n in ("final_pool_dead", "final_loss"))
    return pd.DataFrame(
        {
            "dead": dead.where(~has_diverged, 1.0),
            "loss": loss.where(~has_diverged, math.inf),
        }
    )


def _collapsed(outcomes: pd.DataFrame, share: float) -> "pd.Series[bool]":
    return (outcomes["dead"] >= share) & (outcomes["loss"] >= GUESSING)


def _median_and_range(shares: "pd.Series[float]") -> str:
    if shares.empty:
        return ""
    return f"{shares.median():.2f} [{shares.min():.2f}, {shares.max():.2f}]"


def _verdict(row: Any) -> str:
    if math.isnan(row.p):
        return "unfinished"
    if row.contradicted:
        return "contradicted"
    if row.p_holm >= LEVEL:
        return "undecided"
    return "reproduced" if row.difference > 0 else "contradicted"


def judge(folder: Path, out: Path) -> None:
    """Print the tests of a study folder and write them to `out`, with the table of runs.

    Raises ValueError if the folder has no finished runs.
    """
    records = read_records(records_file(folder))
    if not records:
        raise ValueError(f"{folder} has no finished runs; train them with --plan full.")
    frame = frame_of(records)
    table = run_tests(frame)
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "runs.csv", index=False)
    table.to_csv(out / "tests.csv", index=False)
    for row in table.to_dict("records"):
        print("\n".join(f"{name:<20} {value}" for name, value in row.items()), end="\n\n")
    print(f"Wrote {out / 'tests.csv'} and {out / 'runs.csv'}")


def main(folder: tyro.conf.Positional[Path], out: Path | None = None) -> int:
    """Compute the preregistered tests of a study.

    Args:
        folder: Study folder with runs of the plan full.
        out: Folder for the two tables; by default the study folder.
    """
    action = partial(judge, folder, folder if out is None else out)
    return run_command(PROG, action, if_interrupted="nothing was judged", extra="study")


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog=PROG))
