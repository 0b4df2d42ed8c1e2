# SPDX-License-Identifier: Apache-2.0
"""What the study says: tables of outcomes and verdicts, the figure, and where they are."""

import textwrap
from collections import Counter

from experiments.residual_scaling.claims import Records, judge, pick
from experiments.residual_scaling.figure import draw
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.runner import arms_file, test_accuracy
from experiments.residual_scaling.study import Study


def write_report(study: Study, records: Records) -> None:
    """Print the outcomes and verdicts, write them and the figure, and name the files."""
    parts = outcome_table(records), verdict_table(records), _settings(study, records)
    text = "\n\n".join(parts)
    print(f"\n{text}\n")
    verdicts, picture = study.folder / "verdicts.txt", study.folder / "residual_scaling.png"
    verdicts.write_text(text + "\n", encoding="utf-8")
    draw(records, picture)
    print("Wrote")
    for path in (picture, verdicts, arms_file(study)):
        print(f"  {path}")


def outcome_table(records: Records) -> str:
    """How many seeds of each setting ended how, and their mean test accuracy."""
    header = f"{'width':>6} {'scale':>6} {'rate':>6}  {'accuracy':>8} {'dead':>5}  outcomes"
    lines = ["What happened", "", header]
    settings = dict.fromkeys((a.width, a.learning_rate, a.scale) for a in records)
    for width, rate, scale in sorted(settings, key=lambda s: (s[1], s[0], -s[2])):
        arms = pick(records, width=width, learning_rate=rate, scale=scale).values()
        counts = Counter(arm["outcome"] for arm in arms)
        words = ", ".join(f"{counts[o]} {o}" for o in Outcome if counts[o])
        accuracy = sum(map(test_accuracy, arms)) / len(arms)
        dead = sum(arm["dead_fraction"][-1] for arm in arms) / len(arms)
        lines.append(
            f"{width:>6} {scale:>6g} {rate:>6g}  {accuracy:>8.1%} {dead:>5.0%}  {words}"
        )
    notes = [
        "dead: mean share of the channels before the average pool that are exactly zero",
        *(f"{o}: {_RULES[o]}" for o in Outcome),
    ]
    return "\n".join([*lines, "", *notes])


_RULES = {
    Outcome.DIVERGED: "the loss became infinite or not a number",
    Outcome.DEAD: "99 % of the channels or more, at each of the last three probes",
    Outcome.PART_DEAD: "half of the channels or more, at the last probe",
    Outcome.CHANCE: "no channel to blame, but the final loss is no better than guessing",
    Outcome.SCARRED: "learns, but the loss once doubled or 5 % of the channels died",
    Outcome.HEALTHY: "none of these",
}


def verdict_table(records: Records) -> str:
    """The claims one by one: setting, evidence, verdict."""
    lines = ["What the paper claims, and what these runs say", ""]
    claim = ""
    for verdict in judge(records):
        if verdict.claim != claim:
            claim = verdict.claim
            lines.append(f"* {claim}")
        lines.append(f"    {verdict.verdict.upper()}: {verdict.setting}")
        lines += textwrap.wrap(
            verdict.evidence, 96, initial_indent=" " * 8, subsequent_indent=" " * 8
        )
    return "\n".join(lines)


def _settings(study: Study, records: Records) -> str:
    # Where a study was finished on another machine or later, all that took part.
    platforms = dict.fromkeys(
        ", ".join([r["devices"], *(f"{n} {v}" for n, v in r["versions"].items())])
        for r in records.values()
    )
    missing = len(study.arms) - len(records)
    seeds = len({arm.seed for arm in records})
    words = (
        f"Settings: {study.steps} steps of {study.batch_size} digits (8x8), {study.depth} "
        f"Inception-ResNet-C blocks, {seeds} seeds, RMSProp (decay 0.9, epsilon 1, "
        f"momentum 0.9) without weight decay, batch statistics over the whole batch; "
        f"{'; '.join(platforms)}. Proportions with 95 % Wilson intervals, p from "
        "Fisher's exact test, accuracy with a paired 95 % t interval; the tests are not "
        f"corrected for their number. "
    )
    if missing:
        words += f"{missing} of {len(study.arms)} arms are missing. "
    words += (
        "Far from the paper's setting: small images, narrow branches, tens of steps. A "
        "verdict holds for this setting alone."
    )
    return textwrap.fill(words, 92)
