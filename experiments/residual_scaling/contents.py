# SPDX-License-Identifier: Apache-2.0
"""What the pages of the report say that is computed, as words and rows of tables."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from experiments.residual_scaling.outcomes import RULES, Outcome
from experiments.residual_scaling.records import (
    Record,
    Records,
    seeds_of,
    settings_in,
    signal,
    test_accuracy,
)
from experiments.residual_scaling.runs import DEFAULTS, PAPER_LEARNING_RATE, Run
from experiments.residual_scaling.statistics import Estimate, t_interval
from experiments.residual_scaling.tables import run_id
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
    Verdict,
)

# Shapes that say without colour what was found.
SYMBOLS = {
    REPRODUCED: "✔",
    CONTRADICTED: "✘",
    NOT_REPRODUCED: "△",
    UNDECIDED: "?",
    NOT_TESTED: "○",
}
QUESTION = (
    "Section 3.3 of the paper (Inception-v4, Inception-ResNet and the Impact of Residual "
    "Connections on Learning, arXiv 1602.07261) reports that residual networks of more "
    "than 1000 filters died early in the training: the last layer before the average pool "
    "produced only zeros. Neither a lower learning rate nor an extra batch normalisation "
    "prevented it; scaling the residuals by 0.1 to 0.3 before they are added did, and "
    "never seemed to harm the accuracy. This study trains many networks, its runs, "
    "with and without each of these measures, and puts the claims to the test one by one."
)
READING = (
    "Intervals are of 95 %: Wilson's for shares, Student's for differences of accuracies, "
    "Kaplan-Meier's (log-log) for medians of times, else percentiles of a bootstrap, which "
    "are too narrow for few seeds. p is that of the test named; Holm is p corrected for "
    "the number of tests. Verdicts are computed from these, at a level of 5 %, and need "
    'five seeds. "Not reproduced" is weaker than "contradicted": p does not decide, but an '
    "interval, not corrected, leaves the claim out."
)
# Each with the runs of which it is true.
THREATS: tuple[tuple[str, Callable[[Run], bool]], ...] = (
    (
        "The images are small and made or easy, and so are the feature maps; the paper "
        "trained on ImageNet.",
        lambda run: True,
    ),
    (
        "The branches of the blocks are narrow where the stream is wide; the paper's widen "
        "together.",
        lambda run: run.network == "C",
    ),
    (
        "The runs take few steps. What comes after tens of thousands is seen only in runs "
        "that are that long, and the accuracy after few steps is no final one.",
        lambda run: run.steps < 10_000,
    ),
    (
        "There is no weight decay, and the learning rate stays; the paper lowers it by 6 % "
        "every two epochs of ImageNet.",
        lambda run: True,
    ),
    (
        "High learning rates stand for time: that they bring sooner what the paper's rate "
        "brings late is an assumption.",
        lambda run: run.learning_rate > PAPER_LEARNING_RATE,
    ),
    (
        "Deaths and accuracies are looked for at probes alone: a time is that of the first "
        "probe that saw it, so it comes late by up to the steps between two of them.",
        lambda run: run.probe_every > 1,
    ),
    (
        "Probes use the statistics of their own batch, as training does; the test accuracy "
        "uses moving averages, which lag behind weights that still move fast. The best "
        "learning rate is chosen by the test accuracy that is then compared.",
        lambda run: True,
    ),
    (
        "Seeds are few. Five of five against none of five is p = 0.008, which does not "
        "outlive the correction for all the tests here; more seeds or several settings "
        "together do. Tests count the runs of such settings as independent, but they share "
        "seeds, which can make p too small. Runs amplify rounding, so that another machine "
        "may move single runs.",
        lambda run: True,
    ),
)


def contents(records: Records, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All that the pages say and that is computed, but for the pictures."""
    return {
        "question": QUESTION,
        "reading": READING,
        "rules": RULES,
        "threats": [words for words, true in THREATS if any(map(true, records))],
        "summary": summary(verdicts),
        "num_rows": len(verdicts),
        "claims": claims(verdicts),
        "settings": [_setting_row(records, run) for run in settings_in(records)],
        "num_runs": len(records),
        "num_seeds": len({run.seed for run in records}),
        "shared": _shared(records),
        "defaults": DEFAULTS,
        "machines": _machines(records),
        "runs": [_run_row(run, record) for run, record in records.items()],
    }


def summary(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """What came out: for each kind of verdict how many rows, and of which claims."""
    kinds = {name: [v for v in verdicts if v.verdict == name] for name in SYMBOLS}
    return [
        {
            "verdict": name,
            "symbol": SYMBOLS[name],
            "count": len(group),
            "claims": [
                {"number": number, "words": words, "count": count}
                for (number, words), count in Counter(
                    (verdict.number, verdict.claim) for verdict in group
                ).items()
            ],
        }
        for name, group in kinds.items()
        if group
    ]


def claims(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The claims by number, each with its rows."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for verdict in sorted(verdicts, key=lambda verdict: verdict.number):
        row = asdict(verdict) | {
            "symbol": SYMBOLS[verdict.verdict],
            "p": _p_value(verdict.p),
            "p_holm": _p_value(verdict.p_holm),
        }
        found.setdefault((verdict.number, verdict.claim), []).append(row)
    return [
        {"number": number, "words": words, "tests": tests}
        for (number, words), tests in found.items()
    ]


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _setting_row(records: Records, setting: Run) -> dict[str, Any]:
    found = list(seeds_of(records, setting).values())
    counts = Counter(record["outcome"] for record in found)
    accuracy = t_interval([test_accuracy(record) for record in found])
    dead = [float(signal(record, "pool_dead")[-1]) for record in found]
    return {
        "words": setting.description,
        "seeds": len(found),
        "counts": [counts[outcome] for outcome in Outcome],
        "accuracy": _percent(accuracy.value),
        "interval": _interval(accuracy),
        "dead": _percent(sum(dead) / len(dead)),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "?"


def _interval(found: Estimate) -> str:
    if not math.isfinite(found.low):
        return "-"  # of too few seeds
    return f"{_percent(max(found.low, 0.0))} to {_percent(min(found.high, 1.0))}"


def _shared(records: Records) -> dict[str, str]:
    """Settings of the whole study; all values where runs should differ in one after all."""
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for name, value in record["settings"].items():
            found.setdefault(name, {})[str(value)] = None
    return {name: " or ".join(values) for name, values in found.items()}


def _machine(record: Record) -> str:
    versions = [f"{package} {number}" for package, number in record["versions"].items()]
    return ", ".join([record["devices"], *versions])


def _machines(records: Records) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {}
    for record in records.values():
        seconds.setdefault(_machine(record), []).append(record["seconds"])
    return [
        {"words": words, "runs": len(times), "minutes": f"{sum(times) / 60:.1f}"}
        for words, times in seconds.items()
    ]


def _run_row(run: Run, record: Record) -> dict[str, Any]:
    return {
        "id": run_id(run),
        "words": str(run),
        "outcome": record["outcome"],
        "death": "-" if record["death_step"] is None else record["death_step"],
        "accuracy": _percent(test_accuracy(record)),
        "seconds": f"{record['seconds']:.1f}",
        "devices": record["devices"],
    }
