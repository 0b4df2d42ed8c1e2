# SPDX-License-Identifier: Apache-2.0
"""Comparisons of runs with a change to runs without it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.residual_scaling import statistics
from experiments.residual_scaling.outcomes import Outcome, word_for
from experiments.residual_scaling.records import Record, Records
from experiments.residual_scaling.runs import DEFAULTS, Run, describe_fields
from experiments.residual_scaling.statistics import Share
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_TESTED,
    REPRODUCED,
    Verdict,
    setting_label,
)

# Fields that the networks of section 3.3 leave at their defaults.
REMEDIES = (
    *("activation", "pool_norm", "residual_norm", "learned_scale", "optimizer"),
    *("init_gain", "warmup_steps", "clip_norm", "momentum"),
    *("classifier_rate", "linear_rate"),
)


@dataclass(frozen=True)
class Match:
    """Runs without and with a change that agree in everything else but the seed."""

    base: Run
    changed: Run
    without: Records
    with_it: Records


def without_remedies(records: Records, *allowed: str) -> Records:
    """Select runs of residual networks without remedies other than `allowed`."""
    names = [name for name in REMEDIES if name not in allowed]
    return {
        run: record
        for run, record in records.items()
        if run.block in ("v1", "v2")
        and all(getattr(run, name) == DEFAULTS[name] for name in names)
    }


def group_by(records: Records, key: Callable[[Run], Any]) -> dict[Any, Records]:
    """Group runs by `key`, in the order of the first run of each group."""
    groups: dict[Any, dict[Run, Record]] = defaultdict(dict)
    for run, record in records.items():
        groups[key(run)][run] = record
    return dict(groups)


def match_settings(records: Records, **base: Any) -> list[Match]:
    """Match each setting with the one that differs only in having the fields `base`."""
    settings = group_by(records, lambda run: run.setting)
    partners = {setting: replace(setting, **base) for setting in settings}
    return [
        Match(partner, setting, settings[partner], settings[setting])
        for setting, partner in partners.items()
        if partner != setting and partner in settings
    ]


def pair_by_seed(match: Match) -> list[tuple[Records, Records]]:
    """Pair the runs without and with the change, for each seed that has both."""
    without = group_by(match.without, lambda run: run.seed)
    with_it = group_by(match.with_it, lambda run: run.seed)
    return [(without[seed], with_it[seed]) for seed in without if seed in with_it]


def num_seeds(groups: Iterable[Iterable[Run]]) -> int:
    """Count the different seeds in groups of runs."""
    return len({run.seed for runs in groups for run in runs})


def smaller_group(matches: Sequence[Match]) -> int:
    """Count the seeds without and with the change; return the smaller number."""
    return min(num_seeds(m.without for m in matches), num_seeds(m.with_it for m in matches))


def total(shares: Iterable[Share]) -> Share:
    """Add up shares."""
    return sum(shares, Share(0, 0))


def count_outcomes(records: Records, outcomes: Sequence[Outcome]) -> Share:
    """Count the runs that ended in one of `outcomes`."""
    return Share.of(record["outcome"] in outcomes for record in records.values())


def compare_outcomes(
    number: int,
    setting: str,
    matches: Sequence[Match],
    outcomes: Sequence[Outcome],
    *,
    claimed: bool,
) -> Verdict:
    """Test whether a change prevents `outcomes`, as the claim says or denies (`claimed`).

    Two tests: Fisher's, stratified by setting, of runs with against runs without the
    change; and a binomial test of whether most runs with the change still end in
    `outcomes`, in the settings where at least half of the runs without it do.
    """
    strata = [
        (count_outcomes(match.without, outcomes), count_outcomes(match.with_it, outcomes))
        for match in matches
    ]
    in_spite = total(b for a, b in strata if a.count and 2 * a.count >= a.total)
    word = word_for(outcomes)
    verdict, qualifier, p = _decide(strata, in_spite, word, claimed=claimed)
    return Verdict(
        number,
        setting,
        "Fisher's exact test, stratified; binomial test of runs with the change",
        _evidence(matches, strata, outcomes),
        verdict,
        qualifier,
        smaller_group(matches),
        p,
        excluded=claimed and in_spite.interval[0] > 0.5,
        details=tuple(
            f"{setting_label(match.changed)}: {a} without, {b} with, "
            f"{statistics.format_p(statistics.fisher_p([(a, b)]))}"
            for match, (a, b) in zip(matches, strata, strict=True)
        ),
    )


def _decide(
    strata: Sequence[tuple[Share, Share]], in_spite: Share, word: str, *, claimed: bool
) -> tuple[str, str, float | None]:
    """Return verdict, qualifier and p-value of the stronger test; p is doubled for it."""
    yes, no = (REPRODUCED, CONTRADICTED) if claimed else (CONTRADICTED, REPRODUCED)
    if not any(share.count for pair in strata for share in pair):
        return NOT_TESTED, f"no run {word} with or without it", None
    p_differs, p_in_spite = statistics.fisher_p(strata), statistics.majority_p(in_spite)
    p = min(1.0, 2 * min(p_differs, p_in_spite))
    if p_in_spite < p_differs:
        return no, f"most {word} with it too", p
    if statistics.excess(strata) <= 0:
        return no, f"more {word} with it", p
    return yes, "", p


def _evidence(
    matches: Sequence[Match],
    strata: Sequence[tuple[Share, Share]],
    outcomes: Sequence[Outcome],
) -> str:
    """Count `outcomes` in the settings where any occur, and the discordant seed pairs."""
    affected = [pair for pair in strata if any(share.count for share in pair)] or strata
    pairs = [pair for match in matches for pair in pair_by_seed(match)]
    events = [tuple(count_outcomes(x, outcomes).count > 0 for x in pair) for pair in pairs]
    only_without, only_with = events.count((True, False)), events.count((False, True))
    return (
        f"{total(a for a, _ in affected)} without, {total(b for _, b in affected)} with; "
        f"of {len(pairs)} seed pairs {only_without} only without, {only_with} only with, "
        f"McNemar {statistics.format_p(statistics.mcnemar_p(only_without, only_with))}"
    )


def compare_each_change(
    number: int,
    records: Records,
    outcomes: Sequence[Outcome],
    *,
    claimed: bool,
    **without: Any,
) -> list[Verdict]:
    """Compare each change of some fields with their values in `without`."""

    def change(match: Match) -> str:
        return describe_fields({name: getattr(match.changed, name) for name in without})

    groups = group_matches(match_settings(records, **without), change)
    word = word_for(outcomes)
    return [
        compare_outcomes(number, f"{word} runs, {words}", group, outcomes, claimed=claimed)
        for words, group in groups.items()
    ]


def group_matches(
    matches: Sequence[Match], key: Callable[[Match], Any]
) -> dict[Any, list[Match]]:
    """Group matches by `key`, so that each run without the change counts once per group."""
    groups = defaultdict(list)
    for match in matches:
        groups[key(match)].append(match)
    return dict(groups)
