# SPDX-License-Identifier: Apache-2.0
"""Claims 1 to 3: which unscaled networks die, how, and when."""

import math
from dataclasses import replace

from experiments.residual_scaling import statistics
from experiments.residual_scaling.comparisons import (
    Match,
    compare_outcomes,
    count_outcomes,
    group_by,
    num_seeds,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, HALF, Outcome
from experiments.residual_scaling.records import Records, select, signal
from experiments.residual_scaling.runs import PAPER_LEARNING_RATE, PAPER_WIDTH
from experiments.residual_scaling.statistics import Share
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
    rate_label,
)

LONG_HORIZON = 10_000  # steps; in the paper "a few tens of thousands of iterations"
RECOVERY_STEPS = 400  # long enough for dead channels to recover
BINOMIAL = "exact binomial test against 1/2"
FAILED_OR_CHANCE = (*FAILED, Outcome.CHANCE)
# Qualifiers of `compare_outcomes` when the change is a smaller width.
NARROW = {
    "most failed with it too": "most narrow runs failed too",
    "more failed with it": "more narrow runs failed",
    "no run failed with or without it": "no run failed, narrow or wide",
}


def unscaled(records: Records) -> Records:
    """Select unscaled networks without a remedy that pool after the last sum's ReLU."""
    return without_remedies(select(records, scale=1.0, head="paper"))


def claim_1(records: Records) -> list[Verdict]:
    """Test whether wide networks die and narrow ones survive, by rate and initialiser."""
    rows = []
    groups = group_by(unscaled(records), lambda run: (run.learning_rate, run.init))
    for (rate, init), runs in sorted(groups.items()):
        wide = {a: r for a, r in runs.items() if a.width > PAPER_WIDTH}
        if wide:
            rows.append(_wide_die(wide, init))
            matches = _narrow_and_wide(runs)
            setting = f"{rate_label(rate)}, init {init}"
            rows += [_narrow_survive(matches, setting)] if matches else []
    reason = f"no unscaled run of more than {PAPER_WIDTH} filters"
    return rows or [not_tested(1, reason)]


def _wide_die(wide: Records, init: str) -> Verdict:
    failed = count_outcomes(wide, FAILED)
    dead = count_outcomes(wide, (Outcome.DEAD, Outcome.DIVERGED))
    # Survival in a short run at the paper's rate is not evidence: deaths may come later.
    short = [run for run in wide if run.steps < LONG_HORIZON]
    conclusive = all(run.learning_rate > PAPER_LEARNING_RATE for run in short)
    return Verdict(
        1,
        f"more than {PAPER_WIDTH} filters: {describe_runs(wide)}, init {init}",
        BINOMIAL,
        f"failed {failed}, dead or diverged {dead}",
        REPRODUCED,
        "half dead rather than dead" if dead.interval[1] < 0.5 else "",
        num_seeds([wide]),
        statistics.majority_p(failed),
        excluded=conclusive and failed.interval[1] < 0.5,
    )


def _narrow_and_wide(runs: Records) -> list[Match]:
    """Match wide and narrow runs that agree in all but the width."""
    matches = []
    for rest, alike in group_by(runs, lambda run: replace(run.setting, width=1)).items():
        narrow = {a: r for a, r in alike.items() if a.width < PAPER_WIDTH}
        wide = {a: r for a, r in alike.items() if a.width > PAPER_WIDTH}
        if narrow and wide:
            matches.append(Match(rest, next(iter(narrow)).setting, wide, narrow))
    return matches


def _narrow_survive(matches: list[Match], setting: str) -> Verdict:
    """Test a smaller width as a change that prevents failure."""
    row = compare_outcomes(
        1, f"narrower against wider; {setting}", matches, FAILED, claimed=True
    )
    runs = {a: r for m in matches for a, r in (*m.without.items(), *m.with_it.items())}
    shares = [
        f"width {width} {count_outcomes(group, FAILED)}"
        for width, group in sorted(group_by(runs, lambda run: run.width).items())
    ]
    evidence = "failed: " + ", ".join(shares)
    failed = [record["outcome"] in FAILED for record in runs.values()]
    if (half := statistics.threshold([run.width for run in runs], failed)) is not None:
        evidence += f"; half of them at width {half} (logistic fit)"
    qualifier = NARROW.get(row.qualifier, row.qualifier)
    return replace(row, qualifier=qualifier, evidence=evidence, details=())


def claim_2(records: Records) -> list[Verdict]:
    """Test whether failed networks are dead and stay dead, for each data set."""
    rows = []
    for runs in group_by(unscaled(records), lambda run: run.data).values():
        failed = {a: r for a, r in runs.items() if r["outcome"] in FAILED_OR_CHANCE}
        if failed:
            rows.append(_only_zeros(failed))
        long = {a: r for a, r in runs.items() if a.steps >= RECOVERY_STEPS}
        died = {a: r for a, r in long.items() if (signal(r, "pool_dead") >= HALF).any()}
        if died:
            rows.append(_stay_dead(died))
    if not rows:
        return [not_tested(2, "no unscaled run failed or ended at chance")]
    if not any("stays" in row.setting for row in rows):
        reason = f"no run of {RECOVERY_STEPS} steps or more was half dead at a probe"
        rows.append(not_tested(2, reason, "stays dead"))
    return rows


def _only_zeros(failed: Records) -> Verdict:
    dead = count_outcomes(failed, (Outcome.DEAD,))
    dead_or_half = count_outcomes(failed, (Outcome.DEAD, Outcome.HALF_DEAD))
    diverged = count_outcomes(failed, (Outcome.DIVERGED,)).count
    return Verdict(
        2,
        f"only zeros: unscaled runs failed or at chance, {describe_runs(failed)}",
        BINOMIAL,
        f"dead {dead}, dead or half dead {dead_or_half}, diverged {diverged}",
        REPRODUCED,
        seeds=num_seeds([failed]),
        p=statistics.majority_p(dead),
        excluded=dead.interval[1] < 0.5,
    )


def _stay_dead(long: Records) -> Verdict:
    recovered = Share.of(record["recovered"] for record in long.values())
    stayed = Share(recovered.total - recovered.count, recovered.total)
    p_stayed, p_recovered = statistics.majority_p(stayed), statistics.majority_p(recovered)
    return Verdict(
        2,
        f"stays dead: unscaled runs that were half dead at a probe, {describe_runs(long)}",
        BINOMIAL + ", in both directions",
        f"recovered {recovered}",
        REPRODUCED if p_stayed <= p_recovered else CONTRADICTED,
        "some recover" if 0 < recovered.count < stayed.count else "",
        num_seeds([long]),
        min(1.0, 2 * min(p_stayed, p_recovered)),
    )


def claim_3(records: Records) -> list[Verdict]:
    """Test when networks of each width die in long runs at the paper's learning rate."""
    runs = unscaled(records)
    long = {
        run: record
        for run, record in runs.items()
        if math.isclose(run.learning_rate, PAPER_LEARNING_RATE)
        and run.steps >= LONG_HORIZON
    }
    others = {a: r for a, r in runs.items() if a not in long}
    by_rate = sorted(group_by(others, lambda run: run.learning_rate).items())
    details = tuple(
        f"{describe_runs(group)}: {_time_to_death(group)}" for _, group in by_rate
    )
    if not long:
        reason = f"no unscaled run of {LONG_HORIZON} steps at the paper's learning rate"
        if not details:
            return [not_tested(3, reason)]
        shorter = (f"{rate_label(rate)}: {_time_to_death(g)}" for rate, g in by_rate)
        reason += f"; shorter runs: {'; '.join(shorter)}"
        return [replace(not_tested(3, reason, "unscaled runs"), details=details)]
    return [
        replace(_late(group, width), details=details)
        for width, group in sorted(group_by(long, lambda run: run.width).items())
    ]


def _late(runs: Records, width: int) -> Verdict:
    """Test whether most runs of a width die, and only after `LONG_HORIZON` steps.

    "Not reproduced" is possible only for networks of more than 1000 filters.
    """
    steps = [record["death_step"] for record in runs.values()]
    late = Share.of(step is not None and step >= LONG_HORIZON for step in steps)
    early = Share.of(step is not None and step < LONG_HORIZON for step in steps)
    p_late, p_early = statistics.majority_p(late), statistics.majority_p(early)
    return Verdict(
        3,
        describe_runs(runs),
        BINOMIAL + ", in both directions; Kaplan-Meier",
        f"died at step {LONG_HORIZON} or later {late}, earlier {early}; "
        f"{_time_to_death(runs)}",
        REPRODUCED if p_late <= p_early else CONTRADICTED,
        "" if p_late <= p_early else "they die sooner",
        num_seeds([runs]),
        min(1.0, 2 * min(p_late, p_early)),
        excluded=width > PAPER_WIDTH and late.interval[1] < 0.5,
    )


def _time_to_death(runs: Records) -> str:
    """Describe the median step from which half of the channels stayed dead."""
    steps = [record["death_step"] for record in runs.values()]
    times = [a.steps if s is None else s for a, s in zip(runs, steps, strict=True)]
    died = [step is not None for step in steps]
    if not any(died):
        return f"none of {len(died)} died in {max(times)} steps"
    return (
        f"median steps to death {statistics.format_median(times, died)} (n = {len(died)})"
    )
