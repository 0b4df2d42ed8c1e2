# SPDX-License-Identifier: Apache-2.0
"""Makes Markdown tables from the records of a benchmark."""

import html
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from experiments.speed.case import Case
from experiments.speed.implementations import IMPLEMENTATIONS, REFERENCE
from experiments.speed.process import Record, failure
from inception_jax.text import one_line

Records = list[Record]
TASKS = ("training", "inference")
SPEEDUP = f"{REFERENCE} against it"


def report(records: Records) -> str:
    """Return every table that `records` have data for."""
    sections = [
        _machine(records),
        *(_speed(records, task) for task in TASKS),
        _best_batches(records),
        _starts(records),
        _remarks(records),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def rates(
    records: Records, case: Case, implementation: str, per: str = "seconds"
) -> dict[int, float]:
    """Return images per second of wall-clock or CPU time, keyed by round."""
    return {
        record["round"]: record["steps"] * record["batch"] / record[per]
        for record in _select(records, "round", case, implementation)
        if not failure(record)
    }


def spread(values: Sequence[float]) -> str:
    """Format values as "median (lowest to highest)"."""
    if not values:
        return "-"
    middle = _rounded(statistics.median(values))
    return f"{middle} ({_rounded(min(values))} to {_rounded(max(values))})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _case_of(record: Record) -> Case:
    return Case(**{field.name: record[field.name] for field in fields(Case)})


def _select(
    records: Records, kind: str, case: Case, implementation: str | None = None
) -> Iterator[Record]:
    for record in records:
        if record["kind"] != kind or _case_of(record) != case:
            continue
        if implementation in (None, record["implementation"]):
            yield record


def _cases(records: Records, *tasks: str) -> list[Case]:
    """Return the cases task by task, in the order in which they were measured."""
    ordered = [x for task in tasks for x in records if x.get("task") == task]
    return list(dict.fromkeys(map(_case_of, ordered)))


def _machine(records: Records) -> str:
    machine = next((record for record in records if record["kind"] == "machine"), None)
    if machine is None:
        return ""
    text = (
        f"{machine['device']}, {machine['cores']} cores ({machine['processor']}), load "
        f"{machine['load']:.1f} before the benchmark; {machine['versions']}."
    )
    if machine["xla_flags"]:
        text += f" XLA_FLAGS={machine['xla_flags']} for all implementations on JAX."
    for name, value in machine["compiler_options"].items():
        text += f" {name}={value} for this package."
    if machine.get("product_flops"):
        rate = f"{machine['product_flops'] / 1e12:.4g} TFLOP/s"
        text += f" A matrix multiplication of {machine['product']} runs at {rate}"
        peak = machine["peak_flops"]
        text += f"; the vendor's peak is {peak / 1e12:.4g}." if peak else "."
    return text


def _speed(records: Records, task: str) -> str:
    header = (
        *("network", "batch", "implementation", "images/s", SPEEDUP),
        *("ms per step", "of matmul rate", "peak MB", "images per CPU second", SPEEDUP),
    )
    rows = [
        (case.network, case.batch, name, *_speed_cells(records, case, name))
        for case, name in product(_cases(records, task), IMPLEMENTATIONS)
        if rates(records, case, name)
    ]
    title = f"**{task}**: median (lowest to highest)"
    return f"{title}\n\n{markdown_table(header, rows)}" if rows else ""


def _speed_cells(records: Records, case: Case, implementation: str) -> list[str]:
    measured = list(rates(records, case, implementation).values())
    milliseconds = [1000 * case.batch / rate for rate in measured]
    memory = [x["bytes"] / 1e6 for x in _select(records, "memory", case, implementation)]
    # Other programs hardly affect CPU seconds; with an accelerator these mean little.
    on_cpu = any(record.get("platform") == "cpu" for record in records)
    by_cpu = _rate_and_speedup(records, case, implementation, "cpu_seconds")
    return [
        *_rate_and_speedup(records, case, implementation, "seconds"),
        spread(milliseconds),
        _matmul_share(records, case, statistics.median(measured)),
        f"{memory[0]:,.0f}" if memory else "-",
        *(by_cpu if on_cpu else ("-", "-")),
    ]


def _rate_and_speedup(
    records: Records, case: Case, implementation: str, per: str
) -> tuple[str, str]:
    """Return the rate of an implementation, and the ratio of ours to it in each round."""
    own = rates(records, case, implementation, per)
    if implementation == REFERENCE:
        return spread(list(own.values())), ""
    ours = rates(records, case, REFERENCE, per)
    ratios = [ours[number] / own[number] for number in ours if number in own]
    return spread(list(own.values())), spread(ratios)


def _matmul_share(records: Records, case: Case, rate: float) -> str:
    """Return the FLOP/s at `rate` as a share of those of a large matrix multiplication."""
    matmul_rates = [x["product_flops"] for x in records if x.get("product_flops")]
    macs = [x["macs"] for x in _select(records, "start", case) if x.get("macs")]
    if not matmul_rates or not macs:
        return "-"
    # The backward pass has two matrix multiplications for each one of the forward pass.
    flops_per_image = 2 * macs[0] * (3 if case.task == "training" else 1)
    return f"{rate * flops_per_image / matmul_rates[0]:.1%}"


def _best_batches(records: Records) -> str:
    """Compare the best batch of each implementation, if several batches were measured."""
    best: dict[tuple[str, str, str], tuple[float, int]] = {}  # median rate and batch
    cases = _cases(records, *TASKS)
    batches = {(case.task, case.batch) for case in cases}
    several = len(batches) > len({task for task, _ in batches})
    for case, name in product(cases, IMPLEMENTATIONS):
        if measured := rates(records, case, name).values():
            key = (case.network, case.task, name)
            candidate = statistics.median(measured), case.batch
            best[key] = max(best.get(key, candidate), candidate)
    header = ("network", "task", "implementation", "best batch", "images/s", SPEEDUP)
    rows = []
    for (network, task, name), (rate, batch) in best.items():
        ours = best.get((network, task, REFERENCE))
        ratio = f"{ours[0] / rate:.3g}" if ours else "-"
        rows.append((network, task, name, batch, _rounded(rate), ratio))
    title = "**best batch of each implementation**: medians"
    return f"{title}\n\n{markdown_table(header, rows)}" if several and rows else ""


def _starts(records: Records) -> str:
    """Return seconds until the first step finished, with and without compilation cache."""
    header = (
        *("network", "task", "batch", "implementation", "first step", "a later step"),
        *("CPU seconds", "since the process started"),
        *("first step, cached", "since the process started, cached"),
    )
    rows = []
    for case, name in product(_cases(records, *TASKS), IMPLEMENTATIONS):
        starts = [x for x in _select(records, "start", case, name) if not failure(x)]
        cold = next((x for x in starts if not x["cached"]), None)
        warm = next((x for x in starts if x["cached"]), None)
        if cold is None:
            continue
        steps = [case.batch / rate for rate in rates(records, case, name).values()]
        later = f"{statistics.median(steps):.3g}" if steps else "-"
        first, *others = _seconds(cold, "first_step", "first_step_cpu", "since_start")
        cached = _seconds(warm, "first_step", "since_start")
        labels = case.network, case.task, case.batch, name
        rows.append((*labels, first, later, *others, *cached))
    together = any(record.get("side_by_side") for record in records)
    title = "**starts**: seconds" + (", all started at once" if together else "")
    return f"{title}\n\n{markdown_table(header, rows)}" if rows else ""


def _seconds(record: Record | None, *names: str) -> list[str]:
    return [f"{record[name]:.3g}" if record else "-" for name in names]


def _remarks(records: Records) -> str:
    """List what was not measured and why, and parameter counts that differ from ours."""
    lines = []
    for record in records:
        if reason := record.get("reason") or failure(record):
            name = record.get("implementation", "all")
            case = f"{record['network']}, {record['task']}, batch {record['batch']}"
            # Escaped here since `experiments.reports` needs more than the extra bench.
            said = html.escape(one_line(reason), quote=False).replace("](", "]\\(")
            lines.append(f"- not measured: {name}, {case}: {said}")
    counts = {
        (record["network"], record["implementation"]): record["parameters"]
        for record in records
        if record.get("parameters")
    }
    for (network, name), count in counts.items():
        ours = counts.get((network, REFERENCE), count)
        if count != ours:
            lines.append(
                f"- {name}'s {network} has {count:,} parameters, {REFERENCE} has {ours:,}"
            )
    return "\n".join(dict.fromkeys(lines))
