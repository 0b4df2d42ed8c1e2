# SPDX-License-Identifier: Apache-2.0
"""The one test of each claim, as PREREGISTRATION.md fixes it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from experiments.residual_scaling.design.claims import Claim
from experiments.residual_scaling.judge.tables import runs_of

LEVEL = 0.05
LATE_STEP = 10_000  # "after a few tens of thousands of iterations"
PAIRS = (12, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320)  # tried by `pairs_needed`

REPRODUCED, CONTRADICTED = "reproduced", "contradicted"
UNDECIDED, UNFINISHED = "undecided", "unfinished"


def judge_claims(runs: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Return one row per claim with its test and its verdict.

    `runs` is a table of `run_table`. A claim that lacks runs is unfinished; it counts as
    p = 1 in Holm's correction, so that it makes no other result stronger.
    """
    table = pd.DataFrame([_test(runs, claim) for claim in claims])
    if table.empty:
        return table
    corrected = multipletests(table["p"].fillna(1.0), LEVEL, method="holm")[1]
    table["p_holm"] = pd.Series(corrected).where(table["p"].notna())
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    undecided = table["verdict"] == UNDECIDED
    table["pairs_needed"] = [
        pairs_needed(pairs, LEVEL / len(claims)) if is_open else None
        for pairs, is_open in zip(table["differences"], undecided, strict=True)
    ]
    return table


def matched_pairs(runs: pd.DataFrame, claim: Claim) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs of both settings, by seed, of the seeds that both have."""
    first, second = (
        runs_of(runs, setting).set_index("seed") for setting in (claim.first, claim.second)
    )
    seeds = [k for k in claim.seeds if k in first.index and k in second.index]
    return first.loc[seeds], second.loc[seeds]


def _test(runs: pd.DataFrame, claim: Claim) -> dict[str, Any]:
    first, second = matched_pairs(runs, claim)
    values = [part[claim.endpoint].astype(float) for part in (first, second)]
    # The margin is subtracted, so the test asks on which side of it the difference lies.
    differences = (values[0] - values[1] - claim.margin).round(6)
    row: dict[str, Any] = {
        "claim": claim.text,
        "name": claim.name,
        "setting": claim.setting,
        "endpoint": claim.endpoint,
        "first": claim.labels[0],
        "second": claim.labels[1],
        "pairs": len(first),
        "planned": len(claim.seeds),
        "first_median": _median(values[0]),
        "second_median": _median(values[1]),
        "margin": claim.margin,
        "expected": claim.expected,
    }
    for name in ("collapsed_90", "collapsed", "collapsed_99", "only_zeros"):
        for label, part in (("first", first), ("second", second)):
            row[f"{label}_{name}"] = int(part[name].astype(bool).sum())
    low, high = signed_rank_interval(differences + claim.margin)
    row |= {"difference": _median(differences + claim.margin), "low": low, "high": high}
    is_finished = len(first) == len(claim.seeds)
    row["p"] = signed_rank_p(differences) if is_finished else math.nan
    row["above"] = _median(differences) > 0
    row["condition"] = claim.condition
    row["condition_holds"] = _holds(claim, first, second)
    row["differences"] = differences.tolist()
    return row


def _median(values: "pd.Series[float]") -> float:
    return float(values.median()) if len(values) else math.nan


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the exact Wilcoxon signed-rank test against zero.

    Differences of zero are left out. SciPy's exact test does not allow equal differences;
    this one does.
    """
    values = np.asarray(differences, float)
    values = values[values != 0]
    ranks = stats.rankdata(np.abs(values))
    chances = _sums_of_subsets(ranks)
    observed = round(2 * ranks[values > 0].sum())
    tails = chances[: observed + 1].sum(), chances[observed:].sum()
    return float(min(1.0, 2 * min(tails)))


def _sums_of_subsets(ranks: Sequence[float]) -> np.ndarray:
    """Return the probability of each sum of a random subset of ranks, in steps of 1/2."""
    chances = np.ones(1)
    for rank in np.rint(2 * np.asarray(ranks)).astype(int):
        chances = np.convolve(chances, np.r_[0.5, np.zeros(rank - 1), 0.5])
    return chances


def signed_rank_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median difference that belongs to the test.

    Its ends are means of two differences (Hodges and Lehmann). It is infinite for fewer
    than six differences, which no test at this level can reject.
    """
    values = np.asarray(differences, float)
    n = len(values)
    chances = _sums_of_subsets(range(1, n + 1))[::2]  # the sums are whole numbers
    cut = int(np.searchsorted(np.cumsum(chances), LEVEL / 2, side="right"))
    if n == 0 or cut == 0:
        return -math.inf, math.inf
    i, j = np.triu_indices(n)
    means = np.sort((values[i] + values[j]) / 2)
    return float(means[cut - 1]), float(means[-cut])


def pairs_needed(differences: Sequence[float], level: float) -> int | None:
    """Return the number of pairs that would decide a claim in four of five cases.

    The differences are assumed to be distributed as the observed ones. Returns None if
    even 320 pairs would not decide it.
    """
    values = np.asarray(differences, float)
    if not np.any(values):
        return None
    rng = np.random.default_rng(0)
    for pairs in PAIRS:
        samples = rng.choice(values, (200, pairs))
        samples = samples[samples.any(axis=1)]  # no difference at all decides nothing
        p = stats.wilcoxon(samples, method="asymptotic", axis=1).pvalue
        if np.sum(p < level) >= 0.8 * 200:
            return pairs
    return None


def _holds(claim: Claim, first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return whether the condition of a claim holds."""
    if claim.condition == "second survives":
        return bool(second["collapsed"].astype(bool).mean() < 0.5)
    collapses = first[first["collapse_step"].notna()]
    if collapses.empty:
        return True
    if claim.condition == "first stays dead":
        return bool(collapses["recovered"].astype(bool).mean() < 0.5)
    if claim.condition == "first dies late":
        return bool((collapses["collapse_step"] >= LATE_STEP).mean() >= 0.5)
    return True


def _verdict(row: dict[str, Any]) -> str:
    if math.isnan(row["p"]):
        return UNFINISHED
    if not row["condition_holds"]:
        return CONTRADICTED
    if row["p_holm"] >= LEVEL:
        return UNDECIDED
    return REPRODUCED if row["above"] == (row["expected"] == "above") else CONTRADICTED
