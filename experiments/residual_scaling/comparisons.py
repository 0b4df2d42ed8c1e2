# SPDX-License-Identifier: Apache-2.0
"""Runs with a change beside runs without it: does the change keep them alive?"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.residual_scaling.outcomes import FAILED, Outcome
from experiments.residual_scaling.records import Record, Records
from experiments.residual_scaling.runs import DEFAULTS, Run, describe_field
from experiments.residual_scaling.statistics import (
    Share,
    excess,
    fisher_p,
    majority_p,
    mcnemar_p,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
    Verdict,
    setting_label,
)

# What the networks of section 3.3 do not have; a run without any of it is standard.
REMEDIES = (
    "activation",
    "pool_norm",
    "residual_norm",
    "learned_scale",
    "optimizer",
    "init_gain",
    "warmup_steps",
    "clip_norm",
    "momentum",
    "classifier_rate",
    "linear_rate",
)


@dataclass(frozen=True)
class Match:
    """Runs without a change and runs with it, alike in everything else but the seed."""

    base: Run
    changed: Run
    without: Records
    with_it: Records


def without_remedies(records: Records, *but: str) -> Records:
    """Runs of residual networks without any remedy other than `but`."""
    names = [name for name in REMEDIES if name not in but]
    return {
        run: record
        for run, record in records.items()
        if run.block in ("v1", "v2")
        and all(getattr(run, name) == DEFAULTS[name] for name in names)
    }


def group_by(records: Records, key: Callable[[Run], Any]) -> dict[Any, Records]:
    """Runs by `key`, in the order of their first one."""
    groups: dict[Any, dict[Run, Record]] = defaultdict(dict)
    for run, record in records.items():
        groups[key(run)][run] = record
    return dict(groups)


def match_settings(records: Records, **base: Any) -> list[Match]:
    """Every setting on record of which the same with the fields `base` is there too."""
    settings = group_by(records, lambda run: run.setting)
    partners = {setting: replace(setting, **base) for setting in settings}
    return [
        Match(partner, setting, settings[partner], settings[setting])
        for setting, partner in partners.items()
        if partner != setting and partner in settings
    ]


def pair_by_seed(match: Match) -> list[tuple[Records, Records]]:
    """The runs of a seed without and with the change, for each seed on both sides."""
    without, with_it = (
        group_by(side, lambda run: run.seed) for side in (match.without, match.with_it)
    )
    return [(without[seed], with_it[seed]) for seed in without if seed in with_it]


def num_seeds(groups: Iterable[Iterable[Run]]) -> int:
    """Different seeds among some groups of runs."""
    return len({run.seed for runs in groups for run in runs})


def total(shares: Iterable[Share]) -> Share:
    """Some shares together."""
    return sum(shares, Share(0, 0))


def count_outcomes(records: Records, outcomes: Sequence[Outcome]) -> Share:
    """How many runs came to one of `outcomes`."""
    return Share.of(record["outcome"] in outcomes for record in records.values())


def compare_outcomes(
    number: int,
    setting: str,
    matches: Sequence[Match],
    outcomes: Sequence[Outcome],
    *,
    claimed: bool,
) -> Verdict:
    """Does a change keep runs from `outcomes`, as is `claimed`, or as is denied?

    Two tests: Fisher's, stratified by the setting, of runs with the change against runs
    without; and a binomial one of whether most come to that end in spite of it, where at
    least half of those without it do.
    """
    strata = [
        (count_outcomes(match.without, outcomes), count_outcomes(match.with_it, outcomes))
        for match in matches
    ]
    in_spite = total(b for a, b in strata if a.count and 2 * a.count >= a.total)
    verdict, qualifier, p = _better_of_two(strata, in_spite, claimed=claimed)
    return Verdict(
        number,
        setting,
        "Fisher's exact test, stratified; binomial test that most end so with it",
        _evidence(matches, strata, outcomes),
        verdict,
        qualifier,
        min(num_seeds(m.without for m in matches), num_seeds(m.with_it for m in matches)),
        p,
        otherwise=NOT_REPRODUCED if claimed and in_spite.interval[0] > 0.5 else UNDECIDED,
        details=tuple(
            f"{setting_label(match.changed)}: {a} without, {b} with, "
            f"p = {fisher_p([(a, b)]):.3g}"
            for match, (a, b) in zip(matches, strata, strict=True)
        ),
    )


def _better_of_two(
    strata: Sequence[tuple[Share, Share]], in_spite: Share, *, claimed: bool
) -> tuple[str, str, float | None]:
    """Verdict, qualifier and p of the test that says more; p is doubled for the choice."""
    yes, no = (REPRODUCED, CONTRADICTED) if claimed else (CONTRADICTED, REPRODUCED)
    if not any(side.count for pair in strata for side in pair):
        return NOT_TESTED, "no run ended so with it or without", None
    p_differs, p_in_spite = fisher_p(strata), majority_p(in_spite)
    p = min(1.0, 2 * min(p_differs, p_in_spite))
    if p_in_spite < p_differs:
        return no, "most end so with it too", p
    if excess(strata) <= 0:
        return no, "more end so with it", p
    return yes, "", p


def _evidence(
    matches: Sequence[Match],
    strata: Sequence[tuple[Share, Share]],
    outcomes: Sequence[Outcome],
) -> str:
    """Counts where a run came to `outcomes`, and the pairs of a seed that differ."""
    word = "half dead or worse" if tuple(outcomes) == FAILED else "scarred or worse"
    telling = [pair for pair in strata if any(side.count for side in pair)] or strata
    pairs = [pair for match in matches for pair in pair_by_seed(match)]
    ends = [
        tuple(count_outcomes(runs, outcomes).count > 0 for runs in pair) for pair in pairs
    ]
    first, second = ends.count((True, False)), ends.count((False, True))
    return (
        f"{word}: {total(a for a, _ in telling)} without, "
        f"{total(b for _, b in telling)} with; of {len(pairs)} pairs {first} only "
        f"without, {second} only with, McNemar p = {mcnemar_p(first, second):.3g}"
    )


def compare_each_change(
    number: int,
    records: Records,
    outcomes: Sequence[str],
    *,
    claimed: bool,
    **without: Any,
) -> list[Verdict]:
    """A row for each change of the fields `without`; see `helped`."""
    aim = "against death" if tuple(outcomes) == FAILED else "against instability"

    def change(match: Match) -> str:
        values = ((name, getattr(match.changed, name)) for name in without)
        return ", ".join(describe_field(name, value) for name, value in values)

    return [
        compare_outcomes(number, f"{words}, {aim}", matches, outcomes, claimed=claimed)
        for words, matches in group_matches(
            match_settings(records, **without), change
        ).items()
    ]


def group_matches(
    matches: Sequence[Match], key: Callable[[Match], Any]
) -> dict[Any, list[Match]]:
    """Matches by `key`: in a row, a run without the change is to come up once."""
    groups = defaultdict(list)
    for match in matches:
        groups[key(match)].append(match)
    return dict(groups)
