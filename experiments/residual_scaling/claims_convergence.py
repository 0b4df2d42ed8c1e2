# SPDX-License-Identifier: Apache-2.0
"""Claim 12: do residual connections speed up the training?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments.residual_scaling import statistics
from experiments.residual_scaling.claims_scaling import scale_rule
from experiments.residual_scaling.comparisons import (
    Match,
    group_by,
    pair_by_seed,
    smaller_group,
    without_remedies,
)
from experiments.residual_scaling.records import Records, select, signal
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
    setting_label,
)

TARGETS = (0.8, 0.9)  # accuracies on the probe images; only the first is tested
OTHERS = {"plain": "no sum", "concat": "concatenation instead of the sum"}


def claim_12(records: Records) -> list[Verdict]:
    """Compare residual blocks at each scale with plain and concatenated blocks."""
    groups: dict[tuple[str, str], list[Match]] = {}
    for match in _match_blocks(records):
        key = (match.base.block, scale_rule(match.changed))
        groups.setdefault(key, []).append(match)
    rows = [_faster(*key, matches) for key, matches in groups.items()]
    reason = "no residual run has a plain or concatenated counterpart with probed accuracy"
    return rows or [not_tested(12, reason)]


def _match_blocks(records: Records) -> list[Match]:
    """Match residual settings with those of other blocks, whatever the scale."""
    usable = {a: r for a, r in records.items() if "accuracy" in r["probes"]}
    residual = group_by(
        without_remedies(select(usable, block="v1")), lambda run: run.setting
    )
    others = {run: record for run, record in usable.items() if run.block in OTHERS}
    matches = []
    for other, without in group_by(others, lambda run: run.setting).items():
        for run, with_it in residual.items():
            counterpart = replace(other, block=run.block, scale=run.scale)
            if counterpart == run and run.scale != 0:  # at scale 0 there are no residuals
                matches.append(Match(other, run, without, with_it))
    return matches


def _faster(block: str, scale: str, matches: Sequence[Match]) -> Verdict:
    runs = [run for match in matches for run in match.with_it]
    setting = f"residual, {scale}, against {block} ({OTHERS[block]}); {describe_runs(runs)}"
    curves = [
        (_times(match.with_it, TARGETS[0]), _times(match.without, TARGETS[0]))
        for match in matches
    ]
    if not any(any(reached) for pair in curves for _, reached in pair):
        return not_tested(12, f"no run reached an accuracy of {TARGETS[0]:.0%}", setting)
    data = [tuple(statistics.censored(*times) for times in pair) for pair in curves]
    p_faster = statistics.log_rank_p(data)
    p_slower = statistics.log_rank_p([(without, with_it) for with_it, without in data])
    return Verdict(
        12,
        setting,
        "log-rank test of the steps to an accuracy, stratified by setting",
        _median_steps(matches, TARGETS[0]),
        REPRODUCED if p_faster < p_slower else CONTRADICTED,
        seeds=smaller_group(matches),
        p=min(1.0, 2 * min(p_faster, p_slower)),
        details=tuple(
            f"{setting_label(match.changed)}: {_median_steps([match], target)}"
            for match in matches
            for target in TARGETS
        ),
    )


def _times(records: Records, target: float) -> tuple[list[float], list[bool]]:
    """Return the steps to `target`, at most a run's length, and which runs reached it."""
    times, reached = [], []
    for run, record in records.items():
        steps = signal(record, "step")[signal(record, "accuracy") >= target]
        times.append(float(steps[0]) if len(steps) else run.steps)
        reached.append(len(steps) > 0)
    return times, reached


def _median_steps(matches: Sequence[Match], target: float) -> str:
    """Describe median steps and their paired difference, with times as in `_times`."""
    parts = []
    for name, groups in (
        ("residual", [match.with_it for match in matches]),
        (matches[0].base.block, [match.without for match in matches]),
    ):
        runs = {run: record for group in groups for run, record in group.items()}
        times, reached = _times(runs, target)
        words = statistics.format_median(times, reached)
        parts.append(f"{name} {words} ({sum(reached)} of {len(reached)} runs)")
    text = f"median steps to an accuracy of {target:.0%}: {', '.join(parts)}"
    differences = [
        _times(with_it, target)[0][0] - _times(without, target)[0][0]
        for match in matches
        for without, with_it in pair_by_seed(match)
    ]
    if differences:
        text += f"; paired difference {statistics.bootstrap(np.mean, differences)}"
    return text
