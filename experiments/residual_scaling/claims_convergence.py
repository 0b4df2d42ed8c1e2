# SPDX-License-Identifier: Apache-2.0
"""Claim 12: do residual connections speed up the training?"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments.residual_scaling.claims_scaling import scale_rule
from experiments.residual_scaling.comparisons import (
    Match,
    group_by,
    num_seeds,
    pair_by_seed,
    without_remedies,
)
from experiments.residual_scaling.records import Records, select, signal
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import (
    bootstrap,
    censored,
    log_rank_p,
    median_time,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
    setting_label,
)

TARGETS = (0.8, 0.9)  # accuracies on the probe images; the first one is tested
OTHERS = {"plain": "without the sum", "concat": "with the sum a concatenation"}


def claim_12(records: Records) -> list[Verdict]:
    """Residual blocks against the same without the sum, at each scale on record."""
    groups: dict[tuple[str, str], list[Match]] = {}
    for match in _blocks(records):
        key = (match.base.block, scale_rule(match.changed))
        groups.setdefault(key, []).append(match)
    rows = [_faster(*key, matches) for key, matches in groups.items()]
    reason = "no residual run beside the same without the sum that has probe accuracies"
    return rows or [not_tested(12, reason)]


def _blocks(records: Records) -> list[Match]:
    """Settings of residual blocks beside those of the others, scales left aside."""
    looked = {a: r for a, r in records.items() if "accuracy" in r["probes"]}
    residual = group_by(
        without_remedies(select(looked, block="v1")), lambda run: run.setting
    )
    others = {run: record for run, record in looked.items() if run.block in OTHERS}
    matches = []
    for other, without in group_by(others, lambda run: run.setting).items():
        for run, with_it in residual.items():
            # At scale 0 the residuals are not there.
            same = replace(other, block=run.block, scale=run.scale) == run
            if same and run.scale != 0:
                matches.append(Match(other, run, without, with_it))
    return matches


def steps_to(records: Records, accuracy: float) -> dict[Run, float]:
    """The step of the first probe with that accuracy; infinite if there is none."""
    steps = {}
    for run, record in records.items():
        reached = signal(record, "accuracy") >= accuracy
        steps[run] = float(signal(record, "step")[reached][0]) if any(reached) else math.inf
    return steps


def _faster(block: str, scale: str, matches: Sequence[Match]) -> Verdict:
    setting = (
        f"residual blocks, {scale}, against {block} ({OTHERS[block]}); "
        f"{describe_runs(run for match in matches for run in match.with_it)}"
    )
    curves = [
        tuple(_curve(side, TARGETS[0]) for side in (match.with_it, match.without))
        for match in matches
    ]
    if not any(any(reached) for sides in curves for _, reached in sides):
        return not_tested(12, f"no run reached an accuracy of {TARGETS[0]:.0%}", setting)
    data = [tuple(censored(*curve) for curve in sides) for sides in curves]
    p_faster, p_slower = log_rank_p(data), log_rank_p([sides[::-1] for sides in data])
    return Verdict(
        12,
        setting,
        "log-rank test of the steps to an accuracy, over the settings",
        _median_steps(matches, TARGETS[0]),
        REPRODUCED if p_faster < p_slower else CONTRADICTED,
        "",
        min(num_seeds(m.with_it for m in matches), num_seeds(m.without for m in matches)),
        min(1.0, 2 * min(p_faster, p_slower)),
        details=tuple(
            f"{setting_label(match.changed)}: {_median_steps([match], target)}"
            for match in matches
            for target in TARGETS
        ),
    )


def _curve(records: Records, target: float) -> tuple[list[float], list[bool]]:
    """Steps to the accuracy `target`, or all of a run's steps, and whether reached."""
    steps = steps_to(records, target)
    times = [min(step, run.steps) for run, step in steps.items()]
    return times, [step < math.inf for step in steps.values()]


def _median_steps(matches: Sequence[Match], target: float) -> str:
    """Medians, and the paired difference; a run that never gets there counts its end."""
    words = []
    for name, sides in (
        ("residual", [match.with_it for match in matches]),
        ("without", [match.without for match in matches]),
    ):
        runs = {run: record for side in sides for run, record in side.items()}
        times, reached = _curve(runs, target)
        median = median_time(times, reached)
        words.append(f"{name} {median} ({sum(reached)} of {len(reached)} runs)")
    text = f"median steps to an accuracy of {target:.0%}: {', '.join(words)}"
    differences = [
        _curve(with_it, target)[0][0] - _curve(without, target)[0][0]
        for match in matches
        for without, with_it in pair_by_seed(match)
    ]
    if differences:
        text += f"; paired difference {bootstrap(np.mean, differences)}"
    return text
