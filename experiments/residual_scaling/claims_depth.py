# SPDX-License-Identifier: Apache-2.0
"""Claim 10: do deeper networks need smaller scales?"""

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
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE, Outcome, word_for
from experiments.residual_scaling.records import Records
from experiments.residual_scaling.runs import DEFAULTS
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
    """Compare the deepest networks with the shallowest at equal scales."""
    runs = {a: r for a, r in without_remedies(records).items() if a.scale is not None}
    alike = group_by(runs, lambda run: replace(run.setting, depth=1, scale=1.0))
    families = [
        by_depth
        for family in alike.values()
        if len(by_depth := group_by(family, lambda run: run.depth)) > 1
    ]
    if not families:
        return [not_tested(10, "no runs differ only in depth")]
    return [_deeper(families, FAILED), _deeper(families, UNSTABLE)]


def _deeper(families: Sequence[dict[int, Records]], outcomes: Sequence[Outcome]) -> Verdict:
    strata, compared, details = [], [], []
    for by_depth in families:
        deep, shallow = by_depth[max(by_depth)], by_depth[min(by_depth)]
        deep_by_scale = group_by(deep, lambda run: run.scale)
        shallow_by_scale = group_by(shallow, lambda run: run.scale)
        for scale in deep_by_scale.keys() & shallow_by_scale.keys():
            pair = deep_by_scale[scale], shallow_by_scale[scale]
            compared.append(pair)
            strata.append(tuple(count_outcomes(runs, outcomes) for runs in pair))
        rest = setting_label(replace(next(iter(deep)), depth=DEFAULTS["depth"], seed=0))
        details += [
            f"depth {depth}, {rest}: {largest_scale_without(group, outcomes)}"
            for depth, group in sorted(by_depth.items())
        ]
    word = word_for(outcomes)
    affected = [pair for pair in strata if any(share.count for share in pair)]
    runs = [run for family in families for group in family.values() for run in group]
    setting = f"{word} runs, {describe_runs(runs)}"
    if not affected:
        return not_tested(10, f"no run {word} at a scale that two depths share", setting)
    return Verdict(
        10,
        setting,
        "Fisher's exact test at equal scales, stratified",
        f"deepest {total(a for a, _ in affected)}, shallowest "
        f"{total(b for _, b in affected)} at scales with {word} runs; largest scale with "
        f"none: {'; '.join(details)}",
        REPRODUCED if excess(strata) > 0 else CONTRADICTED,
        seeds=min(map(num_seeds, zip(*compared, strict=True))),
        p=fisher_p(strata),
        details=tuple(details),
    )


def largest_scale_without(records: Records, outcomes: Sequence[Outcome]) -> str:
    """Describe the largest scale at which no run ended in `outcomes`, or 0 if none exists.

    The interval is a bootstrap over the seeds.
    """

    def largest(seeds: np.ndarray) -> float:
        chosen = {a: r for a, r in records.items() if a.seed in set(seeds.tolist())}
        scales = group_by(chosen, lambda run: run.scale).items()
        safe = [s for s, group in scales if not count_outcomes(group, outcomes).count]
        return max(safe, default=0.0)

    seeds = np.array(sorted({run.seed for run in records}))
    return str(bootstrap(largest, seeds))
