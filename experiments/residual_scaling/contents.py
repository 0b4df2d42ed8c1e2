# SPDX-License-Identifier: Apache-2.0
"""Computed text and table rows of the report."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from experiments.residual_scaling.outcomes import RULES, Outcome
from experiments.residual_scaling.records import (
    Record,
    Records,
    settings_in,
    signal,
    test_accuracy,
)
from experiments.residual_scaling.runs import DEFAULTS, PAPER_LEARNING_RATE, Run
from experiments.residual_scaling.statistics import Estimate, format_p, t_interval
from experiments.residual_scaling.tables import run_id
from experiments.residual_scaling.verdicts import CLAIMS, SYMBOLS, Verdict

QUESTION = (
    "Section 3.3 of the paper (Inception-v4, Inception-ResNet and the Impact of Residual "
    "Connections on Learning, arXiv 1602.07261) reports that residual networks with more "
    "than 1000 filters died early in training: the last layer before the average pool "
    "produced only zeros. Neither a lower learning rate nor an extra batch normalisation "
    "prevented this. Scaling the residuals by 0.1 to 0.3 before adding them did, and never "
    "seemed to harm the accuracy. This study trains many networks with and without "
    "each of these measures and tests the claims one by one."
)
READING = (
    "A run fails if it ends diverged, dead or half dead, and is unstable if it ends in any "
    "state but healthy; the rules are below the figures. Brackets are 95 % intervals: "
    "Wilson's for proportions, Student's for differences of accuracies, Kaplan-Meier's "
    "(log-log) for median times, otherwise percentiles of a bootstrap, which are too "
    "narrow for few seeds. p is the p-value of the named test, and Holm is p corrected for "
    "the number of tests. Verdicts use the 5 % level and need at least five seeds. "
    "“Contradicted” means that the opposite of the claim is significant. “Not reproduced” "
    "is weaker: the test is not significant, but an uncorrected interval excludes the "
    "claim."
)
# Each threat to validity, with the runs that it concerns.
THREATS: tuple[tuple[str, Callable[[Run], bool]], ...] = (
    (
        "The images are small and either synthetic or easy. The feature maps are small. "
        "The paper trained on ImageNet.",
        lambda run: True,
    ),
    (
        "Wide networks have a wide stream but narrow branches; in the paper both are wide.",
        lambda run: run.network == "C",
    ),
    (
        "Short runs cannot show what happens after tens of thousands of steps, and their "
        "accuracy is not final.",
        lambda run: run.steps < 10_000,
    ),
    (
        "There is no weight decay, and the learning rate is constant; the paper lowers it "
        "by 6 % every two epochs of ImageNet.",
        lambda run: True,
    ),
    (
        "We assume that a high learning rate over few steps behaves like the paper's rate "
        "over many.",
        lambda run: run.learning_rate > PAPER_LEARNING_RATE,
    ),
    (
        "Deaths and accuracies are measured only at probes, so recorded times are late by "
        "up to the number of steps between two probes.",
        lambda run: run.probe_every > 1,
    ),
    (
        "Probes use the statistics of their own batch, as training does. Test accuracy "
        "uses moving averages, which lag behind weights that change fast. The best "
        "learning rate is chosen by the same test accuracy that is then compared.",
        lambda run: True,
    ),
    (
        "There are few seeds. Five of five against none of five gives p = 0.008, which is "
        "not significant after correction for all tests; more seeds or several settings "
        "together are needed. Tests treat runs of such settings as independent although "
        "they share seeds, which can make p too small. Runs amplify rounding errors, so "
        "single runs can differ on another machine.",
        lambda run: True,
    ),
)


def contents(records: Records, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return everything computed that the report shows, except the figures."""
    return {
        "question": QUESTION,
        "reading": READING,
        "rules": RULES,
        "threats": [text for text, concerns in THREATS if any(map(concerns, records))],
        "counts": _count_verdicts(verdicts),
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


def _count_verdicts(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Count the verdicts of each kind, in the order of `SYMBOLS`."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return [
        {"verdict": kind, "symbol": symbol, "count": counts[kind]}
        for kind, symbol in SYMBOLS.items()
        if counts[kind]
    ]


def claims(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the claims in order, each with its tests and the count of its verdicts."""
    entries = []
    for number in sorted({verdict.number for verdict in verdicts}):
        rows = [verdict for verdict in verdicts if verdict.number == number]
        tests = [
            asdict(row)
            | {"symbol": SYMBOLS[row.verdict], "setting": row.setting or "all runs"}
            | {"test": row.test or "-"}
            | {"p": _p_cell(row.p), "p_holm": _p_cell(row.p_holm)}
            for row in rows
        ]
        counts = _count_verdicts(rows)
        entries.append(
            {"number": number, "words": CLAIMS[number], "tests": tests, "counts": counts}
        )
    return entries


def _p_cell(p: float | None) -> str:
    return "-" if p is None else format_p(p).removeprefix("p ").removeprefix("= ")


def _setting_row(records: Records, setting: Run) -> dict[str, Any]:
    of_setting = [record for run, record in records.items() if run.setting == setting]
    counts = Counter(record["outcome"] for record in of_setting)
    accuracy = t_interval([test_accuracy(record) for record in of_setting])
    dead = [float(signal(record, "pool_dead")[-1]) for record in of_setting]
    return {
        "words": setting.description,
        "seeds": len(of_setting),
        "counts": [counts[outcome] for outcome in Outcome],
        "accuracy": _percent(accuracy.value),
        "interval": _interval(accuracy),
        "dead": _percent(sum(dead) / len(dead)),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "?"


def _interval(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return "-"  # too few seeds
    return f"{_percent(max(estimate.low, 0.0))} to {_percent(min(estimate.high, 1.0))}"


def _shared(records: Records) -> dict[str, str]:
    """Return settings of the whole study, with all values of one in which runs differ."""
    values: dict[str, dict[str, None]] = {}
    for record in records.values():
        for name, value in record["settings"].items():
            values.setdefault(name, {})[str(value)] = None
    return {name: " or ".join(texts) for name, texts in values.items()}


def _machines(records: Records) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {}
    for record in records.values():
        versions = [f"{package} {number}" for package, number in record["versions"].items()]
        machine = ", ".join([record["devices"], *versions])
        seconds.setdefault(machine, []).append(record["seconds"])
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
