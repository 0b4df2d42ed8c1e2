# SPDX-License-Identifier: Apache-2.0
"""Claims 1 to 3: which unscaled networks die, of what, and when."""

import math
from dataclasses import replace

from experiments.residual_scaling.arms import PAPER_LEARNING_RATE, PAPER_WIDTH
from experiments.residual_scaling.comparisons import (
    Match,
    ended_in,
    grouped,
    helped,
    num_seeds,
    standard,
)
from experiments.residual_scaling.outcomes import DYING, HALF, Outcome
from experiments.residual_scaling.records import Record, Records, pick, probed
from experiments.residual_scaling.statistics import (
    Share,
    median_time,
    more_than_half,
    threshold,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Verdict,
    not_tested,
    rate_in_words,
    span,
)

LONG_HORIZON = 10_000  # steps; the paper: "a few tens of thousands of iterations"
ABSORBED_STEPS = 400  # long enough to come back
BINOMIAL = "exact binomial test against 1/2"
FAILING = (*DYING, Outcome.CHANCE)
# Being narrow taken as a change, see `helped`, in other words.
NARROW = {
    "most end so with it too": "most narrow ones die too",
    "more end so with it": "more narrow ones die",
    "no arm ended so with it or without": "no arm died, narrow or wide",
}


def unscaled(records: Records) -> Records:
    """The networks of section 3.3 before the cure: ReLU'd sums up to the pool."""
    return standard(pick(records, scale=1.0, head="paper"))


def claim_1(records: Records) -> list[Verdict]:
    """At each learning rate and initialiser: do the wide die, do the narrow survive?"""
    rows = []
    groups = grouped(unscaled(records), lambda arm: (arm.learning_rate, arm.init))
    for (rate, init), arms in sorted(groups.items()):
        setting = f"{rate_in_words(rate)}, init {init}"
        wide = {a: r for a, r in arms.items() if a.width > PAPER_WIDTH}
        if wide:
            rows.append(_wide_die(wide, setting))
            strata = _narrow_and_wide(arms)
            rows += [_narrow_survive(strata, setting)] if strata else []
    reason = f"no unscaled arm of more than {PAPER_WIDTH} filters"
    return rows or [not_tested(1, reason)]


def _wide_die(wide: Records, setting: str) -> Verdict:
    dead, dying = ended_in(wide, (Outcome.DEAD, Outcome.DIVERGED)), ended_in(wide, DYING)
    # To live for some steps at the paper's rate says nothing: it saw them die late.
    telling = all(
        arm.learning_rate > PAPER_LEARNING_RATE or arm.steps >= LONG_HORIZON for arm in wide
    )
    return Verdict(
        1,
        f"more than {PAPER_WIDTH} filters: {span(wide)}; {setting}",
        BINOMIAL,
        f"half dead or worse {dying}, dead or diverged {dead}",
        REPRODUCED,
        "channels die, not all of them" if dead.interval[1] < 0.5 else "",
        num_seeds([wide]),
        more_than_half(dying),
        otherwise=NOT_REPRODUCED if telling and dying.interval[1] < 0.5 else UNDECIDED,
    )


def _narrow_and_wide(arms: Records) -> list[Match]:
    """Wide arms beside narrow ones that are alike in all but the width."""
    matches = []
    for rest, alike in grouped(arms, lambda arm: replace(arm.setting, width=1)).items():
        narrow = {a: r for a, r in alike.items() if a.width < PAPER_WIDTH}
        wide = {a: r for a, r in alike.items() if a.width > PAPER_WIDTH}
        if narrow and wide:
            matches.append(Match(rest, next(iter(narrow)).setting, wide, narrow))
    return matches


def _narrow_survive(strata: list[Match], setting: str) -> Verdict:
    """Being narrow taken as the change that keeps alive; see `helped`."""
    row = helped(1, f"narrower against wider; {setting}", strata, DYING, claimed=True)
    arms = {a: r for m in strata for a, r in (*m.without.items(), *m.with_it.items())}
    shares = [
        f"width {width} {ended_in(some, DYING)}"
        for width, some in sorted(grouped(arms, lambda arm: arm.width).items())
    ]
    evidence = "half dead or worse: " + ", ".join(shares)
    died = [record["outcome"] in DYING for record in arms.values()]
    if (half := threshold([arm.width for arm in arms], died)) is not None:
        evidence += f"; half of them at width {half} (logistic fit)"
    qualifier = NARROW.get(row.qualifier, row.qualifier)
    return replace(row, qualifier=qualifier, evidence=evidence, details=())


def claim_2(records: Records) -> list[Verdict]:
    """Are failing networks dead, on each data set, and do the dead stay so?"""
    rows = []
    for arms in grouped(unscaled(records), lambda arm: arm.data).values():
        failing = {a: r for a, r in arms.items() if r["outcome"] in FAILING}
        if failing:
            rows.append(_only_zeros(failing))
        long = {
            arm: record
            for arm, record in arms.items()
            if arm.steps >= ABSORBED_STEPS and ever_half_dead(record)
        }
        if long:
            rows.append(_absorbing(long))
    if not rows:
        return [not_tested(2, "no unscaled arm failed")]
    if not any("stays" in row.setting for row in rows):
        reason = f"no arm of {ABSORBED_STEPS} steps or more had half of its channels dead"
        rows.append(not_tested(2, reason, "stays dead"))
    return rows


def ever_half_dead(record: Record) -> bool:
    """Whether half of the channels before the pool were dead at some probe."""
    return bool((probed(record, "pool_dead") >= HALF).any())


def _only_zeros(failing: Records) -> Verdict:
    dead = ended_in(failing, (Outcome.DEAD,))
    dying = ended_in(failing, (Outcome.DEAD, Outcome.PART_DEAD))
    diverged = ended_in(failing, (Outcome.DIVERGED,)).count
    return Verdict(
        2,
        f"only zeros: unscaled arms that fail, {span(failing)}",
        BINOMIAL,
        f"of the arms at chance, half dead or diverged: dead {dead}, dead or half dead "
        f"{dying}, diverged {diverged}",
        REPRODUCED,
        "",
        num_seeds([failing]),
        more_than_half(dead),
        otherwise=NOT_REPRODUCED if dead.interval[1] < 0.5 else UNDECIDED,
    )


def _absorbing(long: Records) -> Verdict:
    recovered = Share.of(record["recovered"] for record in long.values())
    stayed = Share(recovered.total - recovered.count, recovered.total)
    p_stayed, p_recovered = more_than_half(stayed), more_than_half(recovered)
    return Verdict(
        2,
        f"stays dead: unscaled arms once half dead, {span(long)}",
        BINOMIAL + ", each way",
        f"recovered {recovered}",
        REPRODUCED if p_stayed <= p_recovered else CONTRADICTED,
        "some recover" if 0 < recovered.count < stayed.count else "",
        num_seeds([long]),
        min(1.0, 2 * min(p_stayed, p_recovered)),
    )


def claim_3(records: Records) -> list[Verdict]:
    """Time to death at the paper's learning rate, for each width with a long horizon."""
    arms = unscaled(records)
    long = {
        arm: record
        for arm, record in arms.items()
        if math.isclose(arm.learning_rate, PAPER_LEARNING_RATE)
        and arm.steps >= LONG_HORIZON
    }
    others = grouped(
        {arm: record for arm, record in arms.items() if arm not in long},
        lambda arm: arm.learning_rate,
    )
    details = tuple(
        f"{rate_in_words(rate)}, {span(some)}: {_time_to_death(some)}"
        for rate, some in sorted(others.items())
    )
    if not long:
        reason = f"no unscaled arm of {LONG_HORIZON} steps at the paper's learning rate"
        if details:
            reason += "; shorter arms: " + "; ".join(
                f"{rate_in_words(rate)} {_time_to_death(some)}"
                for rate, some in sorted(others.items())
            )
        setting = "unscaled arms" if details else ""
        return [replace(not_tested(3, reason, setting), details=details)]
    return [
        replace(_late(some, width), details=details)
        for width, some in sorted(grouped(long, lambda arm: arm.width).items())
    ]


def _late(arms: Records, width: int) -> Verdict:
    """Do most arms of a width die, and not before the tens of thousands?

    That narrow ones do not is no news: the paper speaks of more than 1000 filters.
    """
    steps = [record["death_step"] for record in arms.values()]
    late = Share.of(step is not None and step >= LONG_HORIZON for step in steps)
    early = Share.of(step is not None and step < LONG_HORIZON for step in steps)
    p_late, p_early = more_than_half(late), more_than_half(early)
    return Verdict(
        3,
        span(arms),
        BINOMIAL + ", each way; Kaplan-Meier",
        f"died at step {LONG_HORIZON} or later {late}, earlier {early}; "
        f"{_time_to_death(arms)}",
        REPRODUCED if p_late <= p_early else CONTRADICTED,
        "" if p_late <= p_early else "they die sooner",
        num_seeds([arms]),
        min(1.0, 2 * min(p_late, p_early)),
        otherwise=NOT_REPRODUCED
        if width > PAPER_WIDTH and late.interval[1] < 0.5
        else UNDECIDED,
    )


def _time_to_death(arms: Records) -> str:
    """Median of the step at which half of the channels died for good."""
    steps = [record["death_step"] for record in arms.values()]
    times = [a.steps if s is None else s for a, s in zip(arms, steps, strict=True)]
    died = [step is not None for step in steps]
    if not any(died):
        return f"none of {len(died)} died in {max(times)} steps"
    return f"median time to death {median_time(times, died)} steps (n = {len(died)})"
