# SPDX-License-Identifier: Apache-2.0
"""Claims 6 and 8: effects of scaled residuals on stability and accuracy."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments.residual_scaling.comparisons import (
    Match,
    compare_outcomes,
    group_matches,
    match_settings,
    pair_by_seed,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome, word_for
from experiments.residual_scaling.records import Record, Records, test_accuracy
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import format_p, paired_tost, t_interval
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    not_tested,
    rate_kind,
    setting_label,
)

MARGIN = 0.005  # a loss of half a point of accuracy counts as harmless
PAPER_SCALES = (0.1, 0.3)
NO_PAIR = "no scaled run has an unscaled counterpart"


def scale_rule(run: Run) -> str:
    """Describe the scale of a run, by a rule that depends on the depth if one fits."""
    if run.scale is None:
        return "scale as published"
    # Checked first: at some depth a rule gives one of these values, too.
    if run.scale in (0.1, 0.17, 0.2, 0.3, 0.5):
        return f"scale {run.scale:g}"
    for power, words in ((-0.5, "1/sqrt(depth)"), (-1.0, "1/depth")):
        if math.isclose(run.scale, run.depth**power, rel_tol=1e-3):
            return f"scale {words}"
    return f"scale {run.scale:g}"


def scaled(records: Records) -> list[Match]:
    """Match scaled settings, except scale 0, with unscaled ones."""
    matches = match_settings(without_remedies(records), scale=1.0)
    return [match for match in matches if match.changed.scale != 0.0]


def claim_6(records: Records) -> list[Verdict]:
    """Compare failures and instability at each scale with scale 1."""
    rows = []
    groups = group_matches(scaled(records), _scale_and_rate)
    for outcomes in (FAILED, UNSTABLE):
        for (scale, rate), matches in groups.items():
            setting = f"{word_for(outcomes)} runs, {scale} against 1; learning rate: {rate}"
            rows.append(compare_outcomes(6, setting, matches, outcomes, claimed=True))
    return rows or [not_tested(6, NO_PAIR)]


def _scale_and_rate(match: Match) -> tuple[str, str]:
    run = match.changed
    inside = run.scale is None or PAPER_SCALES[0] <= run.scale <= PAPER_SCALES[1]
    words = scale_rule(run) + ("" if inside else " (not one of the paper's)")
    return words, rate_kind(run.learning_rate)


def claim_8(records: Records) -> list[Verdict]:
    """Compare accuracy at each scale with scale 1, at common and at best rates."""
    rows = []
    with_pairs = [match for match in scaled(records) if _gains(match)]
    by_scale = group_matches(with_pairs, lambda match: scale_rule(match.changed))
    for scale, matches in by_scale.items():
        rows.append(_no_harm(f"{scale} against 1, at common learning rates", matches))
        if best := _at_best_rates(matches):
            rows.append(_no_harm(f"{scale} against 1, each at its best rate", best))
    return rows or [not_tested(8, NO_PAIR)]


def accuracy(record: Record) -> float:
    """Return the test accuracy: 0 for a diverged run without one, else NaN if missing."""
    test = record.get("test") or {}
    value = test_accuracy(record) if "top1_sum" in test and test["count"] else math.nan
    diverged = record["outcome"] == Outcome.DIVERGED
    return 0.0 if diverged and not math.isfinite(value) else value


def _at_best_rates(matches: Sequence[Match]) -> list[Match]:
    """Match settings that differ in scale and rate, each at its rate of best accuracy."""
    best = []
    families = group_matches(matches, lambda m: replace(m.changed, learning_rate=1.0))
    for family in families.values():
        # A NaN accuracy must not win.
        without = max(family, key=lambda m: np.nan_to_num(_mean_accuracy(m.without)))
        with_it = max(family, key=lambda m: np.nan_to_num(_mean_accuracy(m.with_it)))
        both = Match(without.base, with_it.changed, without.without, with_it.with_it)
        best += [both] if len(family) > 1 and _gains(both) else []
    return best


def _mean_accuracy(records: Records) -> float:
    return float(np.mean([accuracy(record) for record in records.values()]))


def _no_harm(setting: str, matches: Sequence[Match]) -> Verdict:
    """Test for harm in each setting: harmless if so in all settings, harmful if so in one.

    Settings are not pooled, since networks that scaling saves in one would hide its cost in
    another.
    """
    gains = [_gains(match) for match in matches]
    p_harmless = [paired_tost(values, -MARGIN)[0] for values in gains]
    pairs = zip(p_harmless, gains, strict=True)
    p_harmed = [1 - p if len(values) > 2 else 1.0 for p, values in pairs]
    p_none, p_some = max(p_harmless), min(1.0, len(matches) * min(p_harmed))
    harm = p_some < p_none
    harmed = [
        setting_label(match.changed)
        for match, values in zip(matches, gains, strict=True)
        if t_interval(values).high < -MARGIN
    ]
    worst = int(np.argmax(p_harmless))
    details = tuple(map(_gain_evidence, matches, gains))
    return Verdict(
        8,
        setting,
        "paired TOST, margin half a point: no harm in all settings, or harm in one",
        f"least favourable of {len(matches)} settings: {details[worst]}",
        CONTRADICTED if harm else REPRODUCED,
        f"at {'; '.join(harmed)}" if harm and harmed else "",
        len(gains[int(np.argmin(p_harmed))]) if harm else min(map(len, gains)),
        min(1.0, 2 * min(p_none, p_some)),
        details=details,
    )


def _gains(match: Match) -> list[float]:
    """Return what scaling adds to the accuracy, for each seed with and without it."""
    gains = [_mean_accuracy(b) - _mean_accuracy(a) for a, b in pair_by_seed(match)]
    return [gain for gain in gains if math.isfinite(gain)]


def _gain_evidence(match: Match, gains: Sequence[float]) -> str:
    setting, base = setting_label(match.changed), setting_label(match.base)
    if setting != base:
        setting += f" against {base}"
    points = t_interval([100 * gain for gain in gains])
    p_harmless, p_equivalent = paired_tost(gains, -MARGIN)
    return (
        f"{setting}: {points} points, no harm: {format_p(p_harmless)}, "
        f"equivalence: {format_p(p_equivalent)} (n = {len(gains)})"
    )
