# SPDX-License-Identifier: Apache-2.0
"""Claims 1 to 3: which unscaled networks die, of what, and when."""

import math
from dataclasses import replace

from experiments.residual_scaling.comparisons import (
    Match,
    compare_outcomes,
    count_outcomes,
    group_by,
    num_seeds,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, HALF, Outcome
from experiments.residual_scaling.records import Record, Records, select, signal
from experiments.residual_scaling.runs import PAPER_LEARNING_RATE, PAPER_WIDTH
from experiments.residual_scaling.statistics import (
    Share,
    majority_p,
    median_time,
    threshold,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Verdict,
    describe_runs,
    not_tested,
    rate_label,
)

LONG_HORIZON = 10_000  # steps; the paper: "a few tens of thousands of iterations"
ABSORBED_STEPS = 400  # long enough to come back
BINOMIAL = "exact binomial test against 1/2"
FAILED_OR_CHANCE = (*FAILED, Outcome.CHANCE)
# Being narrow taken as a change, see `helped`, in other words.
NARROW = {
    "most end so with it too": "most narrow ones die too",
    "more end so with it": "more narrow ones die",
    "no run ended so with it or without": "no run died, narrow or wide",
}


def unscaled(records: Records) -> Records:
    """The networks of section 3.3 before the cure: ReLU'd sums up to the pool."""
    return without_remedies(select(records, scale=1.0, head="paper"))


def claim_1(records: Records) -> list[Verdict]:
    """At each learning rate and initialiser: do the wide die, do the narrow survive?"""
    rows = []
    groups = group_by(unscaled(records), lambda run: (run.learning_rate, run.init))
    for (rate, init), runs in sorted(groups.items()):
        setting = f"{rate_label(rate)}, init {init}"
        wide = {a: r for a, r in runs.items() if a.width > PAPER_WIDTH}
        if wide:
            rows.append(_wide_die(wide, setting))
            strata = _narrow_and_wide(runs)
            rows += [_narrow_survive(strata, setting)] if strata else []
    reason = f"no unscaled run of more than {PAPER_WIDTH} filters"
    return rows or [not_tested(1, reason)]


def _wide_die(wide: Records, setting: str) -> Verdict:
    dead, dying = (
        count_outcomes(wide, (Outcome.DEAD, Outcome.DIVERGED)),
        count_outcomes(wide, FAILED),
    )
    # To live for some steps at the paper's rate says nothing: it saw them die late.
    telling = all(
        run.learning_rate > PAPER_LEARNING_RATE or run.steps >= LONG_HORIZON for run in wide
    )
    return Verdict(
        1,
        f"more than {PAPER_WIDTH} filters: {describe_runs(wide)}; {setting}",
        BINOMIAL,
        f"half dead or worse {dying}, dead or diverged {dead}",
        REPRODUCED,
        "channels die, not all of them" if dead.interval[1] < 0.5 else "",
        num_seeds([wide]),
        majority_p(dying),
        otherwise=NOT_REPRODUCED if telling and dying.interval[1] < 0.5 else UNDECIDED,
    )


def _narrow_and_wide(runs: Records) -> list[Match]:
    """Wide runs beside narrow ones that are alike in all but the width."""
    matches = []
    for rest, alike in group_by(runs, lambda run: replace(run.setting, width=1)).items():
        narrow = {a: r for a, r in alike.items() if a.width < PAPER_WIDTH}
        wide = {a: r for a, r in alike.items() if a.width > PAPER_WIDTH}
        if narrow and wide:
            matches.append(Match(rest, next(iter(narrow)).setting, wide, narrow))
    return matches


def _narrow_survive(strata: list[Match], setting: str) -> Verdict:
    """Being narrow taken as the change that keeps alive; see `helped`."""
    row = compare_outcomes(
        1, f"narrower against wider; {setting}", strata, FAILED, claimed=True
    )
    runs = {a: r for m in strata for a, r in (*m.without.items(), *m.with_it.items())}
    shares = [
        f"width {width} {count_outcomes(some, FAILED)}"
        for width, some in sorted(group_by(runs, lambda run: run.width).items())
    ]
    evidence = "half dead or worse: " + ", ".join(shares)
    died = [record["outcome"] in FAILED for record in runs.values()]
    if (half := threshold([run.width for run in runs], died)) is not None:
        evidence += f"; half of them at width {half} (logistic fit)"
    qualifier = NARROW.get(row.qualifier, row.qualifier)
    return replace(row, qualifier=qualifier, evidence=evidence, details=())


def claim_2(records: Records) -> list[Verdict]:
    """Are failing networks dead, on each data set, and do the dead stay so?"""
    rows = []
    for runs in group_by(unscaled(records), lambda run: run.data).values():
        failing = {a: r for a, r in runs.items() if r["outcome"] in FAILED_OR_CHANCE}
        if failing:
            rows.append(_only_zeros(failing))
        long = {
            run: record
            for run, record in runs.items()
            if run.steps >= ABSORBED_STEPS and was_half_dead(record)
        }
        if long:
            rows.append(_absorbing(long))
    if not rows:
        return [not_tested(2, "no unscaled run failed")]
    if not any("stays" in row.setting for row in rows):
        reason = f"no run of {ABSORBED_STEPS} steps or more had half of its channels dead"
        rows.append(not_tested(2, reason, "stays dead"))
    return rows


def was_half_dead(record: Record) -> bool:
    """Whether half of the channels before the pool were dead at some probe."""
    return bool((signal(record, "pool_dead") >= HALF).any())


def _only_zeros(failing: Records) -> Verdict:
    dead = count_outcomes(failing, (Outcome.DEAD,))
    dying = count_outcomes(failing, (Outcome.DEAD, Outcome.HALF_DEAD))
    diverged = count_outcomes(failing, (Outcome.DIVERGED,)).count
    return Verdict(
        2,
        f"only zeros: unscaled runs that fail, {describe_runs(failing)}",
        BINOMIAL,
        f"of the runs at chance, half dead or diverged: dead {dead}, dead or half dead "
        f"{dying}, diverged {diverged}",
        REPRODUCED,
        "",
        num_seeds([failing]),
        majority_p(dead),
        otherwise=NOT_REPRODUCED if dead.interval[1] < 0.5 else UNDECIDED,
    )


def _absorbing(long: Records) -> Verdict:
    recovered = Share.of(record["recovered"] for record in long.values())
    stayed = Share(recovered.total - recovered.count, recovered.total)
    p_stayed, p_recovered = majority_p(stayed), majority_p(recovered)
    return Verdict(
        2,
        f"stays dead: unscaled runs once half dead, {describe_runs(long)}",
        BINOMIAL + ", each way",
        f"recovered {recovered}",
        REPRODUCED if p_stayed <= p_recovered else CONTRADICTED,
        "some recover" if 0 < recovered.count < stayed.count else "",
        num_seeds([long]),
        min(1.0, 2 * min(p_stayed, p_recovered)),
    )


def claim_3(records: Records) -> list[Verdict]:
    """Time to death at the paper's learning rate, for each width with a long horizon."""
    runs = unscaled(records)
    long = {
        run: record
        for run, record in runs.items()
        if math.isclose(run.learning_rate, PAPER_LEARNING_RATE)
        and run.steps >= LONG_HORIZON
    }
    others = group_by(
        {run: record for run, record in runs.items() if run not in long},
        lambda run: run.learning_rate,
    )
    details = tuple(
        f"{rate_label(rate)}, {describe_runs(some)}: {_time_to_death(some)}"
        for rate, some in sorted(others.items())
    )
    if not long:
        reason = f"no unscaled run of {LONG_HORIZON} steps at the paper's learning rate"
        if details:
            reason += "; shorter runs: " + "; ".join(
                f"{rate_label(rate)} {_time_to_death(some)}"
                for rate, some in sorted(others.items())
            )
        setting = "unscaled runs" if details else ""
        return [replace(not_tested(3, reason, setting), details=details)]
    return [
        replace(_late(some, width), details=details)
        for width, some in sorted(group_by(long, lambda run: run.width).items())
    ]


def _late(runs: Records, width: int) -> Verdict:
    """Do most runs of a width die, and not before the tens of thousands?

    That narrow ones do not is no news: the paper speaks of more than 1000 filters.
    """
    steps = [record["death_step"] for record in runs.values()]
    late = Share.of(step is not None and step >= LONG_HORIZON for step in steps)
    early = Share.of(step is not None and step < LONG_HORIZON for step in steps)
    p_late, p_early = majority_p(late), majority_p(early)
    return Verdict(
        3,
        describe_runs(runs),
        BINOMIAL + ", each way; Kaplan-Meier",
        f"died at step {LONG_HORIZON} or later {late}, earlier {early}; "
        f"{_time_to_death(runs)}",
        REPRODUCED if p_late <= p_early else CONTRADICTED,
        "" if p_late <= p_early else "they die sooner",
        num_seeds([runs]),
        min(1.0, 2 * min(p_late, p_early)),
        otherwise=NOT_REPRODUCED
        if width > PAPER_WIDTH and late.interval[1] < 0.5
        else UNDECIDED,
    )


def _time_to_death(runs: Records) -> str:
    """Median of the step at which half of the channels died for good."""
    steps = [record["death_step"] for record in runs.values()]
    times = [a.steps if s is None else s for a, s in zip(runs, steps, strict=True)]
    died = [step is not None for step in steps]
    if not any(died):
        return f"none of {len(died)} died in {max(times)} steps"
    return f"median time to death {median_time(times, died)} steps (n = {len(died)})"
