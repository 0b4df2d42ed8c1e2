# SPDX-License-Identifier: Apache-2.0
"""Claim 10: how the scale that a network still bears goes with its depth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments.residual_scaling.comparisons import (
    count_outcomes,
    group_by,
    num_seeds,
    total,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE
from experiments.residual_scaling.records import Records
from experiments.residual_scaling.runs import DEFAULTS, Run
from experiments.residual_scaling.statistics import bootstrap, excess, fisher_p
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
    setting_label,
)


def claim_10(records: Records) -> list[Verdict]:
    """At equal scales, does the deepest network fail more often than the shallowest?"""
    runs = {a: r for a, r in without_remedies(records).items() if a.scale is not None}
    families = [
        by_depth
        for family in group_by(runs, _but_depth_and_scale).values()
        if len(by_depth := group_by(family, lambda run: run.depth)) > 1
    ]
    if not families:
        return [not_tested(10, "no runs that are alike in all but their depth")]
    return [_deeper(families, FAILED), _deeper(families, UNSTABLE)]


def _but_depth_and_scale(run: Run) -> Run:
    return replace(run.setting, depth=1, scale=1.0)


def _deeper(families: Sequence[dict[int, Records]], outcomes: Sequence[str]) -> Verdict:
    strata, sides, details = [], ([], []), []
    for by_depth in families:
        deep, shallow = by_depth[max(by_depth)], by_depth[min(by_depth)]
        of_deep, of_shallow = (group_by(side, _scale) for side in (deep, shallow))
        for scale in of_deep.keys() & of_shallow.keys():
            both = (of_deep[scale], of_shallow[scale])
            strata.append(tuple(count_outcomes(side, outcomes) for side in both))
            for side, some in zip(sides, both, strict=True):
                side.append(some)
        rest = setting_label(replace(next(iter(deep)), depth=DEFAULTS["depth"], seed=0))
        details += [
            f"depth {depth}, {rest}: {largest_scale_without(some, outcomes)}"
            for depth, some in sorted(by_depth.items())
        ]
    word = "half dead or worse" if outcomes == FAILED else "scarred or worse"
    telling = [pair for pair in strata if any(side.count for side in pair)]
    runs = [run for f in families for some in f.values() for run in some]
    setting = f"{word}: {describe_runs(runs)}"
    if not telling:
        return not_tested(10, f"no run {word} at a scale that two depths share", setting)
    return Verdict(
        10,
        setting,
        "Fisher's exact test at equal scales, stratified",
        f"deepest {total(a for a, _ in telling)}, shallowest "
        f"{total(b for _, b in telling)} at the scales that tell; largest scale without "
        f"such a run: {'; '.join(details)}",
        REPRODUCED if excess(strata) > 0 else CONTRADICTED,
        "",
        min(num_seeds(side) for side in sides),
        fisher_p(strata),
        details=tuple(details),
    )


def _scale(run: Run) -> float:
    return run.scale


def largest_scale_without(records: Records, outcomes: Sequence[str]) -> str:
    """The largest scale at which no run came to `outcomes`, 0 if there is none, with a
    bootstrap interval over the seeds."""

    def largest(seeds: np.ndarray) -> float:
        chosen = {a: r for a, r in records.items() if a.seed in set(seeds.tolist())}
        scales = group_by(chosen, _scale).items()
        bearable = [s for s, some in scales if not count_outcomes(some, outcomes).count]
        return max(bearable, default=0.0)

    seeds = np.array(sorted({run.seed for run in records}))
    return str(bootstrap(largest, seeds))
