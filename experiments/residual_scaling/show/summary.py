# SPDX-License-Identifier: Apache-2.0
"""The results in words, computed from the tables."""

import math
from typing import Any

import pandas as pd

from experiments.residual_scaling.design.settings import FULL, NARROW, STALE
from experiments.residual_scaling.judge.tests import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    UNFINISHED,
)

FAILED_CONDITIONS = {
    "second survives": "at least half of the narrower networks collapsed, too",
    "first stays dead": "at least half of the collapsed runs recovered",
    "first dies late": "most collapses came before update 10,000",
}
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, UNFINISHED)


def sentences(runs: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """Return the summary: at most five sentences, each on something that was run."""
    full, narrow = _runs_like(runs, FULL), _runs_like(runs, NARROW)
    lines = [
        _dead_shares(full),
        _accuracies(full),
        _narrower(_runs_like(runs, FULL, any_width=True)),
        _replicas(narrow, _runs_like(runs, STALE)),
        _counts(claims),
    ]
    return [line for line in lines if line]


def _runs_like(runs: pd.DataFrame, setting: Any, any_width: bool = False) -> pd.DataFrame:
    """Select the runs with the setting's network, width, rate and replicas, at any scale.

    The number of updates is that of the claims or of the main job, whichever was run.
    """
    chosen = runs[
        (runs["network"] == setting.network)
        & (runs["learning_rate"] == setting.learning_rate)
        & (runs["replicas"] == setting.replicas)
        & (runs["image_size"] == setting.image_size)
        & (runs["block"] == setting.block)
        & (runs["depth"] == setting.depth)
        & (runs["init_gain"] == setting.init_gain)
        & (runs["pool_norm"] == setting.pool_norm)
        & (runs["warmup_steps"] == 0)
        & (runs["stagger"] == 0)
        & runs["clip_norm"].isna()
        & (runs["steps"] <= setting.steps)
    ]
    return chosen if any_width else chosen[chosen["width"] == setting.width]


def _at(runs: pd.DataFrame, scale: float) -> pd.DataFrame:
    return runs[runs["scale"] == scale]


def _dead_shares(full: pd.DataFrame) -> str:
    unscaled, scaled = _at(full, 1.0), _at(full, 0.1)
    if unscaled.empty or scaled.empty:
        return ""
    return (
        "Inception-ResNet-v2 as drawn in the paper, trained at the paper's learning rate "
        f"of 0.045, ends after {int(full['steps'].max())} updates with "
        f"{percent(unscaled['dead_share'])} of its channels before the pool dead; with its "
        f"residuals scaled by 0.1, {percent(scaled['dead_share'])} are dead."
    )


def _accuracies(full: pd.DataFrame) -> str:
    unscaled, scaled = _at(full, 1.0), _at(full, 0.1)
    if unscaled.empty or scaled.empty:
        return ""
    return (
        f"Without scaling {_of(unscaled['collapsed'])} runs collapsed, and their median "
        f"accuracy is {percent(unscaled['probe_accuracy'])}; with scaling "
        f"{_of(scaled['collapsed'])} collapsed, and the accuracy is "
        f"{percent(scaled['probe_accuracy'])}."
    )


def _narrower(full: pd.DataFrame) -> str:
    unscaled = _at(full, 1.0)
    parts = [
        f"{percent(rows['dead_share'])} with {width} channels"
        for width, rows in unscaled.groupby("width")
        if width < FULL.width
    ]
    if not parts:
        return ""
    return (
        f"Of narrower versions of this network, without scaling, {joined(parts)} are dead."
    )


def _replicas(synchronous: pd.DataFrame, stale: pd.DataFrame) -> str:
    unscaled, scaled, one = _at(stale, 1.0), _at(stale, 0.1), _at(synchronous, 1.0)
    if unscaled.empty or scaled.empty:
        return ""
    words = (
        "A narrow network of 256 channels, trained with the stale gradients of 8 replicas, "
        f"ends with {percent(unscaled['dead_share'])} dead channels without scaling and "
        f"{percent(scaled['dead_share'])} with a scale of 0.1"
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
    text = f"Verdicts on {len(claims)} claims: {joined(parts)}."
    for word in (CONTRADICTED, UNDECIDED):
        names = claims.loc[claims["verdict"] == word, "name"].tolist()
        if names:
            text += f" {word.capitalize()}: {joined([f'“{name}”' for name in names])}."
    return text


def claim_lines(claims: pd.DataFrame) -> list[dict[str, str]]:
    """Return claim, verdict, evidence and number of pairs of each claim."""
    return [
        {
            "claim": row["claim"],
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
        what = {
            "dead_share": "dead share",
            "test_accuracy": "accuracy",
            "steps_to_80": "updates",
        }[row["endpoint"]]
        words = f"{what} {first} ({row['first']}) and {second} ({row['second']})"
        bounds = [row[name] for name in ("low", "difference", "high")]
        if all(map(math.isfinite, bounds)):
            low, middle, high = (number(x, row["endpoint"], sign=True) for x in bounds)
            words += f", difference {middle} [{low}, {high}]"
    if row["verdict"] == UNFINISHED:
        return f"{words}; {row['pairs']} of {row['planned']} pairs"
    words += f", {format_p(row['p_holm'])}"
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


def number(value: float, endpoint: str, sign: bool = False) -> str:
    """Format a value of an endpoint: percent for shares, and whole updates."""
    plus = "+" if sign else ""
    if endpoint == "steps_to_80":
        return f"{value:{plus}.0f}"
    digits = 1 if endpoint == "test_accuracy" else 0
    return f"{100 * value:{plus}.{digits}f} %"


def percent(shares: "pd.Series[float]") -> str:
    """Format the median of shares and, if they differ, their range."""
    low, middle, high = (
        f"{100 * x:.0f}" for x in (shares.min(), shares.median(), shares.max())
    )
    return f"{middle} %" if low == high else f"{middle} % ({low} to {high})"


def format_p(p: float) -> str:
    """Format a p-value, as in "p = 0.012" and "p < 0.001"."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _of(events: "pd.Series[bool]") -> str:
    return f"{int(events.astype(bool).sum())} of {len(events)}"


def joined(words: list[str]) -> str:
    """Join words with commas and "and"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
