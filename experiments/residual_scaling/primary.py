# SPDX-License-Identifier: Apache-2.0
"""The preregistered tests: `python -m experiments.residual_scaling.primary FOLDER`.

PREREGISTRATION.md fixes the runs, the endpoint and the tests. The command reads the runs of
a study folder, prints the tests, and writes `tests.csv` and `runs.csv`, from which
`dead_share.py` draws the figure. Use --out to keep the report's `runs.csv`.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from scipy import stats
from statsmodels.stats.multitest import multipletests

from experiments.residual_scaling.plans import FULL, STALE
from experiments.residual_scaling.records import Record, read_records, records_file
from experiments.residual_scaling.records import test_accuracy as accuracy_of
from experiments.residual_scaling.runs import Run

LEVEL = 0.05
COLLAPSED = (0.90, 0.95, 0.99)  # dead shares; the middle one is the definition
WINDOW = 10  # updates over which the final loss is averaged
PERMUTATIONS = stats.PermutationMethod(n_resamples=10_000)  # more than 2**10
PROG = "python -m experiments.residual_scaling.primary"


@dataclass(frozen=True)
class Comparison:
    """A claim, and the two settings whose dead shares differ according to it."""

    claim: str
    dies: Run  # the setting with the larger dead share, according to the claim
    lives: Run
    seeds: range
    # Whether the claim is contradicted if half of the runs that should live collapse.
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


def frame_of(records: dict[Run, Record]) -> pd.DataFrame:
    """Return one row per run: its fields, dead share, final loss and accuracy."""
    return pd.DataFrame([_row(run, record) for run, record in records.items()])


def _row(run: Run, record: Record) -> dict[str, Any]:
    probes, loss = record["probes"], [x for x in record["loss"] if x is not None]
    final_loss = sum(loss[-WINDOW:]) / len(loss[-WINDOW:]) if loss else math.inf
    dead = probes["pool_dead"][-1]
    guessing = 0.95 * math.log(10)
    return {
        **asdict(run),
        "dead": dead,
        "final_loss": round(final_loss, 3),
        "accuracy": round(accuracy_of(record), 4),
        "probe_accuracy": probes["accuracy"][-1],
        "feature_norm2_first": probes["feature_norm2"][0],
        "feature_norm2_last": probes["feature_norm2"][-1],
        **{
            f"collapsed_{share:.2f}": dead >= share and final_loss >= guessing
            for share in COLLAPSED
        },
        "seconds": record["seconds"],
    }


def paired(frame: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Return dead shares and collapses of the two settings, for seeds that have both."""
    settings = {"dies": comparison.dies, "lives": comparison.lives}
    parts = {name: _of_setting(frame, run) for name, run in settings.items()}
    table = pd.DataFrame(
        {name: part["dead"] for name, part in parts.items()}
        | {f"{name}_collapsed": part["collapsed_0.95"] for name, part in parts.items()}
    )
    return table[table.index.isin(comparison.seeds)].dropna()


def _of_setting(frame: pd.DataFrame, setting: Run) -> pd.DataFrame:
    """Return the runs of one setting, indexed by seed."""
    fields = {n: x for n, x in asdict(setting).items() if n != "seed" and x is not None}
    return frame[(frame[list(fields)] == pd.Series(fields)).all(axis=1)].set_index("seed")


def run_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per test; one with fewer pairs than planned is unfinished."""
    rows = [_test(frame, comparison) for comparison in COMPARISONS]
    table = pd.DataFrame(rows)
    finished = table["p"].notna()
    if finished.any():
        # Unfinished tests count as p = 1, so that no result looks stronger without them.
        corrected = multipletests(table["p"].fillna(1.0), LEVEL, method="holm")[1]
        table["p_holm"] = pd.Series(corrected).where(finished)
        table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table


def _test(frame: pd.DataFrame, comparison: Comparison) -> dict[str, Any]:
    pairs = paired(frame, comparison)
    collapsed = (pairs[f"{name}_collapsed"].sum() for name in ("dies", "lives"))
    row = {
        "claim": comparison.claim,
        "pairs": len(pairs),
        "planned": len(comparison.seeds),
        "dead_where_it_dies": _median_and_range(pairs["dies"]),
        "dead_where_it_lives": _median_and_range(pairs["lives"]),
        "collapsed": " and ".join(map(str, collapsed)),
        "p": math.nan,
        "median_difference": math.nan,
        "all_die": False,
        "verdict": "unfinished",
    }
    if len(pairs) < len(comparison.seeds):
        return row
    difference = pairs["dies"] - pairs["lives"]
    row["median_difference"] = float(difference.median())
    # All sign changes are enumerated, which is exact with ties too.
    row["all_die"] = comparison.must_live and pairs["lives_collapsed"].mean() >= 0.5
    row["p"] = float(stats.wilcoxon(difference, method=PERMUTATIONS).pvalue)
    return row


def _median_and_range(shares: "pd.Series[float]") -> str:
    if shares.empty:
        return ""
    return f"{shares.median():.2f} [{shares.min():.2f}, {shares.max():.2f}]"


def _verdict(row: Any) -> str:
    if math.isnan(row.p):
        return "unfinished"
    if row.all_die:
        return "contradicted"
    if row.p_holm >= LEVEL:
        return "undecided"
    return "reproduced" if row.median_difference > 0 else "contradicted"


def main(folder: tyro.conf.Positional[Path], out: Path | None = None) -> int:
    """Print the preregistered tests of a study folder, and write two tables.

    Args:
        folder: Study folder with the runs of the plan full.
        out: Folder for the output; by default the study folder.
    """
    out = folder if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    frame = frame_of(read_records(records_file(folder)))
    if frame.empty:
        print(f"{folder} has no finished runs.")
        return 2
    frame.to_csv(out / "runs.csv", index=False)
    table = run_tests(frame)
    table.to_csv(out / "tests.csv", index=False)
    print(table.to_string(index=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main, prog=PROG))
