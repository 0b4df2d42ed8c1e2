# SPDX-License-Identifier: Apache-2.0
"""Claims 6 and 8: what scaled residuals do for stability and to the accuracy."""

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
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome
from experiments.residual_scaling.records import (
    Record,
    Records,
    mean_over,
    test_accuracy,
)
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import (
    Estimate,
    paired_tost,
    t_interval,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    not_tested,
    rate_kind,
    setting_label,
)

MARGIN = 0.005  # half a point of accuracy is no harm
PAPER_SCALES = (0.1, 0.3)
NO_PAIR = "no scaled run beside the same without scaling"


def scale_rule(run: Run) -> str:
    """A scale in words that runs of all depths share: by its rule where it has one."""
    if run.scale is None:
        return "scale as published"
    # At some depth a rule gives one of these too.
    if run.scale in (0.1, 0.17, 0.2, 0.3, 0.5):
        return f"scale {run.scale:g}"
    for power, words in ((-0.5, "1/sqrt(depth)"), (-1.0, "1/depth")):
        if math.isclose(run.scale, run.depth**power, rel_tol=1e-3):
            return f"scale {words}"
    return f"scale {run.scale:g}"


def scaled(records: Records) -> list[Match]:
    """Runs with a scale of the paper's kind beside the unscaled ones."""
    matches = match_settings(without_remedies(records), scale=1.0)
    return [match for match in matches if match.changed.scale != 0.0]


def claim_6(records: Records) -> list[Verdict]:
    """Each scale against 1: does it keep alive, does it keep stable?"""
    rows = []
    groups = group_matches(scaled(records), _scale_and_rate)
    for outcomes, verb in ((FAILED, "keeps alive"), (UNSTABLE, "stabilises")):
        for (scale, rate), matches in groups.items():
            setting = f"{scale} against 1 {verb}, learning rate {rate}"
            rows.append(compare_outcomes(6, setting, matches, outcomes, claimed=True))
    return rows or [not_tested(6, NO_PAIR)]


def _scale_and_rate(match: Match) -> tuple[str, str]:
    run = match.changed
    inside = run.scale is None or PAPER_SCALES[0] <= run.scale <= PAPER_SCALES[1]
    words = scale_rule(run) + ("" if inside else " (not one of the paper's)")
    return words, rate_kind(run.learning_rate)


def claim_8(records: Records) -> list[Verdict]:
    """Accuracy of each scale against 1, at the common rates and at each one's own best."""
    rows = []
    matched_seeds = [match for match in scaled(records) if _gains(match)]
    for scale, matches in group_matches(matched_seeds, _scale).items():
        rows.append(_no_harm(f"{scale} against 1, at common learning rates", matches))
        if best := _at_best_rates(matches):
            rows.append(_no_harm(f"{scale} against 1, each at its best rate", best))
    return rows or [not_tested(8, NO_PAIR)]


def _scale(match: Match) -> str:
    return scale_rule(match.changed)


def accuracy(record: Record) -> float:
    """Test accuracy; 0 of a run that diverged, NaN if there is none on record."""
    test = record.get("test") or {}
    found = test_accuracy(record) if "top1_sum" in test and test["count"] else math.nan
    diverged = record["outcome"] == Outcome.DIVERGED
    return 0.0 if diverged and not math.isfinite(found) else found


def _at_best_rates(matches: Sequence[Match]) -> list[Match]:
    """Of settings alike but for the rate, each side at the rate of its best accuracy."""
    best = []
    for family in group_matches(matches, _but_rate).values():
        # NaN is no best rate.
        without = max(family, key=lambda m: np.nan_to_num(_mean_accuracy(m.without)))
        with_it = max(family, key=lambda m: np.nan_to_num(_mean_accuracy(m.with_it)))
        both = Match(without.base, with_it.changed, without.without, with_it.with_it)
        best += [both] if len(family) > 1 and _gains(both) else []
    return best


def _but_rate(match: Match) -> Run:
    return replace(match.changed, learning_rate=1.0)


def _mean_accuracy(records: Records) -> float:
    return mean_over(records.values(), accuracy)


def _no_harm(setting: str, matches: Sequence[Match]) -> Verdict:
    """Paired differences, setting by setting: pooled, the networks that scaling saved in
    one would hide what it costs in another. No harm has to be shown in all, harm in one.
    """
    gains = [_gains(match) for match in matches]
    p_harmless = [paired_tost(some, -MARGIN)[0] for some in gains]
    p_harmed = [
        1 - p if len(some) > 2 else 1.0 for p, some in zip(p_harmless, gains, strict=True)
    ]
    p_none, p_some = max(p_harmless), min(1.0, len(matches) * min(p_harmed))
    harm = p_some < p_none
    harmed = [
        setting_label(match.changed)
        for match, some in zip(matches, gains, strict=True)
        if t_interval(some).high < -MARGIN
    ]
    worst = int(np.argmax(p_harmless))
    details = tuple(map(_gain_evidence, matches, gains))
    return Verdict(
        8,
        setting,
        "paired TOST, margin half a point; no harm in all settings, or harm in one",
        f"least favourable of {len(matches)} settings: {details[worst]}",
        CONTRADICTED if harm else REPRODUCED,
        f"at {'; '.join(harmed)}" if harm and harmed else "",
        len(gains[int(np.argmin(p_harmed))]) if harm else min(map(len, gains)),
        min(1.0, 2 * min(p_none, p_some)),
        details=details,
    )


def _gains(match: Match) -> list[float]:
    """Accuracy with scaling less that without it, of each seed that has both."""
    gains = [_mean_accuracy(b) - _mean_accuracy(a) for a, b in pair_by_seed(match)]
    return [gain for gain in gains if math.isfinite(gain)]


def _gain_evidence(match: Match, gains: Sequence[float]) -> str:
    here, there = setting_label(match.changed), setting_label(match.base)
    where = here if here == there else f"{here} against {there}"
    found = t_interval(gains)
    points = Estimate(*(100 * x for x in (found.value, found.low, found.high)))
    p_harmless, p_equal = paired_tost(gains, -MARGIN)
    return (
        f"{where}: {points} points, p = {p_harmless:.3g} of no harm, {p_equal:.3g} of "
        f"equivalence (n = {len(gains)})"
    )
