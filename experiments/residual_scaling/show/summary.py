# SPDX-License-Identifier: Apache-2.0
"""The results in words, computed from the tables."""

import math
from typing import Any

import pandas as pd

from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.design.settings import FULL, NARROW, STALE
from experiments.residual_scaling.judge.tests import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    UNFINISHED,
)
from experiments.residual_scaling.show.dead_share import comparable

FAILED_CONDITIONS = {
    "second survives": "at least half of the narrower networks collapsed, too",
    "first stays dead": "at least half of the collapsed runs recovered",
    "first dies late": "most collapses came before update 10,000",
}
ENDPOINTS = {
    "dead_share": "dead share",
    "test_accuracy": "accuracy",
    "steps_to_80": "updates",
}
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, UNFINISHED)


def sentences(runs: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """Return the summary: at most five sentences, each on something that was run."""
    runs = comparable(runs)
    full = _like(runs, FULL)
    lines = [
        *_full(full[full["width"] == FULL.width]),
        _narrower(full),
        _replicas(*(_like(runs, s).query(f"width == {s.width}") for s in (NARROW, STALE))),
        _counts(claims),
    ]
    return [line for line in lines if line]


def _like(runs: pd.DataFrame, setting: Run) -> pd.DataFrame:
    """Select the runs with the setting's network, rate and replicas, at any scale or width.

    The number of updates is that of the claims or of the main job, whichever was run.
    """
    return runs[
        (runs["network"] == setting.network)
        & (runs["learning_rate"] == setting.learning_rate)
        & (runs["replicas"] == setting.replicas)
        & (runs["steps"] <= setting.steps)
    ]


def _at(runs: pd.DataFrame, scale: float) -> pd.DataFrame:
    return runs[runs["scale"] == scale]


def _full(full: pd.DataFrame) -> list[str]:
    unscaled, scaled = _at(full, 1.0), _at(full, 0.1)
    if unscaled.empty or scaled.empty:
        return []
    return [
        "At the paper's learning rate of 0.045, Inception-ResNet-v2 as drawn in the paper "
        f"ends after {int(full['steps'].max())} updates with "
        f"{percent(unscaled['dead_share'])} dead channels before the pool without residual "
        f"scaling and {percent(scaled['dead_share'])} with a scale of 0.1: "
        f"{_of(unscaled['collapsed'])} runs collapsed against {_of(scaled['collapsed'])}.",
        "The accuracy of these runs on the probe images is "
        f"{percent(unscaled['probe_accuracy'])} without scaling and "
        f"{percent(scaled['probe_accuracy'])} with a scale of 0.1.",
    ]


def _narrower(full: pd.DataFrame) -> str:
    unscaled = _at(full, 1.0)
    parts = [
        f"{percent(rows['dead_share'])} dead channels at a width of {width}"
        for width, rows in unscaled.groupby("width")
        if width < FULL.width
    ]
    if not parts:
        return ""
    return f"Without scaling, narrower versions of this network end with {joined(parts)}."


def _replicas(synchronous: pd.DataFrame, stale: pd.DataFrame) -> str:
    unscaled, scaled, one = _at(stale, 1.0), _at(stale, 0.1), _at(synchronous, 1.0)
    if unscaled.empty or scaled.empty:
        return ""
    words = (
        f"A narrow network of {STALE.width} channels, trained with the stale gradients of "
        f"{STALE.replicas} replicas, ends with {percent(unscaled['dead_share'])} dead "
        f"channels without scaling and {percent(scaled['dead_share'])} with a scale of 0.1"
    )
    if len(one):
        words += (
            f"; with one replica and without scaling it has {percent(one['dead_share'])}"
        )
    return f"{words}."


def _counts(claims: pd.DataFrame) -> str:
    if claims.empty:
        return ""
    counts = claims["verdict"].value_counts()
    parts = [f"{counts[word]} {word}" for word in VERDICTS if counts.get(word)]
    text = f"Verdicts on {len(claims)} claim{'s' * (len(claims) > 1)}: {joined(parts)}."
    for word in (CONTRADICTED, UNDECIDED):
        names = claims.loc[claims["verdict"] == word, "name"].tolist()
        if names:
            text += f" {word.capitalize()}: {joined([f'“{name}”' for name in names])}."
    return text


def claim_lines(claims: pd.DataFrame) -> list[dict[str, str]]:
    """Return claim, setting, verdict, evidence and number of pairs of each claim."""
    return [
        {
            "claim": row["claim"],
            "setting": row["setting"],
            "verdict": row["verdict"],
            "evidence": evidence(row),
            "pairs": str(row["pairs"]),
        }
        for row in claims.to_dict("records")
    ]


def evidence(row: dict[str, Any]) -> str:
    """Return the numbers that decide a claim."""
    if not row["pairs"]:
        return "not run"
    if row["endpoint"] == "only_zeros":
        first, second = (
            f"{row[f'{n}_only_zeros']}/{row['pairs']} runs" for n in ("first", "second")
        )
        words = f"only zeros in {first} ({row['first']}) and {second} ({row['second']})"
    else:
        first, second = (number(row[f"{n}_median"], row["endpoint"])
                         for n in ("first", "second"))  # fmt: skip
        words = f"{ENDPOINTS[row['endpoint']]} {first} ({row['first']}) and "
        words += f"{second} ({row['second']})"
        bounds = [row[name] for name in ("difference", "low", "high")]
        if all(map(math.isfinite, bounds)):
            middle, low, high = (difference(x, row["endpoint"]) for x in bounds)
            unit = "updates" if row["endpoint"] == "steps_to_80" else "points"
            words += f", difference {middle} [{low}, {high}] {unit}"
    if row["verdict"] == UNFINISHED:
        return f"{words}; {row['pairs']} of {row['planned']} pairs"
    words += f", {format_p(row['p_holm'])} after Holm's correction"
    if row["verdict"] == UNDECIDED:
        needed = row["pairs_needed"]
        known = needed is not None and needed == needed
        words += (
            f"; about {needed:.0f} pairs would decide it"
            if known
            else "; more than 320 pairs would be needed"
        )
    if not row["condition_holds"]:
        words += f"; {FAILED_CONDITIONS[row['condition']]}"
    return words


def number(value: float, endpoint: str) -> str:
    """Format a value of an endpoint: percent for shares, and whole updates."""
    if endpoint == "steps_to_80":
        return f"{value:.0f}"
    return f"{100 * value:.1f} %" if endpoint == "test_accuracy" else f"{share(value)} %"


def difference(value: float, endpoint: str) -> str:
    """Format a difference with its sign: points of shares, or whole updates."""
    digits = 1 if endpoint == "test_accuracy" else 0
    factor = 1 if endpoint == "steps_to_80" else 100
    # Adding zero turns -0 into 0.
    return f"{round(factor * value, digits) + 0.0:+.{digits}f}"


def share(value: float) -> str:
    """Format a share in percent; only a share of 1 becomes 100."""
    text = f"{100 * value:.0f}"
    return "over 99.5" if text == "100" and value < 1 else text


def percent(shares: "pd.Series[float]") -> str:
    """Format the median of shares and, if they differ, their range."""
    low, middle, high = map(share, (shares.min(), shares.median(), shares.max()))
    return f"{middle} %" if low == high else f"{middle} % ({low} to {high})"


def format_p(p: float) -> str:
    """Format a p-value, as in "p = 0.012" and "p < 0.001"."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _of(events: "pd.Series[bool]") -> str:
    return f"{int(events.astype(bool).sum())} of {len(events)}"


def joined(words: list[str]) -> str:
    """Join words with commas and "and"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
