# SPDX-License-Identifier: Apache-2.0
"""What the records of a measurement say, as tables of Markdown."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.reports import escape_cell
from experiments.speed.implementations import IMPLEMENTATIONS
from experiments.speed.turns import fault

Records = list[dict[str, Any]]
CASE = ("network", "task", "batch", "image_size", "dtype")


def report(records: Records) -> str:
    """Every table for which there are records."""
    parts = [*_machine(records)]
    parts += [_speed(records, task) for task in ("training", "inference")]
    parts += [_best(records), _starts(records), _missing(records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def rates(
    records: Records, case: dict[str, Any], side: str, per: str = "seconds"
) -> dict[int, float]:
    """Images per second of a side, by round; or per second of processor time."""
    return {
        r["round"]: r["steps"] * r["batch"] / r[per]
        for r in _of(records, "round", case, side)
        if not fault(r)
    }


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """The first rate by the second, of the rounds that both have."""
    return [ours[number] / theirs[number] for number in ours if number in theirs]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, lowest and highest."""
    if not values:
        return "-"
    numbers = statistics.median(values), min(values), max(values)
    middle, low, high = (_rounded(x, digits) for x in numbers)
    return f"{middle} ({low} to {high})"


def _rounded(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _of(
    records: Records, kind: str, case: dict[str, Any], side: str | None = None
) -> Iterator[dict[str, Any]]:
    for record in records:
        same = all(record.get(name) == case[name] for name in CASE)
        if record["kind"] == kind and same and side in (None, record["side"]):
            yield record


def _cases(records: Records, task: str) -> Records:
    """Every case of the task, in the order measured."""
    found = []
    for record in records:
        case = {name: record.get(name) for name in CASE}
        if record.get("task") == task and case not in found:
            found.append(case)
    return found


def _machine(records: Records) -> Iterator[str]:
    for r in records:
        if r["kind"] != "machine":
            continue
        words = f"{r['device']}, {r['cores']} cores ({r['processor']}) with a load of "
        words += f"{r['load']:.1f} beforehand; {r['versions']}."
        if r["xla_flags"]:
            words += f" XLA_FLAGS={r['xla_flags']}, for all sides on JAX."
        for name, value in r["compiler_options"].items():
            words += f" {name}={value}, given by this package to its programs."
        if r.get("product_flops"):
            words += f" A product {r['product']}: {r['product_flops'] / 1e12:.4g} TFLOP/s"
            peak = r["peak_flops"]
            words += f" of the vendor's {peak / 1e12:.4g}." if peak else "."
        yield words


def _speed(records: Records, task: str) -> str:
    header = (
        *("network", "batch", "side", "images/s", f"{IMPLEMENTATIONS[0]} against it"),
        *("ms a step", "of the product", "peak MB"),
        *("images per CPU second", f"{IMPLEMENTATIONS[0]} against it"),
    )
    lines = []
    for case in _cases(records, task):
        for side in IMPLEMENTATIONS:
            if found := list(rates(records, case, side).values()):
                milliseconds = [1000 * case["batch"] / rate for rate in found]
                peak = [r["bytes"] / 1e6 for r in _of(records, "memory", case, side)]
                lines.append(
                    (
                        *(case["network"], case["batch"], side),
                        *_against(records, case, side, "seconds"),
                        *(spread(milliseconds), _of_product(records, case, found)),
                        f"{peak[0]:,.0f}" if peak else "-",
                        *_against(records, case, side, "cpu_seconds"),
                    )
                )
    title = f"**{task}**: median (lowest to highest)"
    return f"{title}\n\n{_table(header, lines)}" if lines else ""


def _against(
    records: Records, case: dict[str, Any], side: str, per: str
) -> tuple[str, str]:
    """The rate of a side and the first one's against it, round by round.

    By processor time on CPUs alone: other programs hardly touch it there.
    """
    on_cpu = any(r.get("platform") == "cpu" for r in records)
    if per == "cpu_seconds" and not on_cpu:
        return "-", "-"
    first, own = (rates(records, case, name, per) for name in (IMPLEMENTATIONS[0], side))
    ratio = "" if side == IMPLEMENTATIONS[0] else spread(ratios(first, own))
    return spread(list(own.values())), ratio


def _of_product(records: Records, case: dict[str, Any], found: list[float]) -> str:
    """Which share of a matrix product's FLOP/s the median rate is: MFU, measured."""
    product = next((r["product_flops"] for r in records if r.get("product_flops")), None)
    macs = next((r["macs"] for r in _of(records, "start", case) if r.get("macs")), None)
    if product is None or macs is None:
        return "-"
    # Backwards takes two products for each of forwards.
    flops = 2 * macs * (3 if case["task"] == "training" else 1)
    return f"{statistics.median(found) * flops / product:.1%}"


def _best(records: Records) -> str:
    """Each side at the batch that suits it best; of several batches alone."""
    header = (
        "network",
        "task",
        "side",
        "best batch",
        "images/s",
        f"{IMPLEMENTATIONS[0]} against it",
    )
    lines = []
    for task in ("training", "inference"):
        cases = _cases(records, task)
        for network in dict.fromkeys(case["network"] for case in cases):
            best: dict[str, tuple[float, int]] = {}
            for case in (c for c in cases if c["network"] == network):
                for side in IMPLEMENTATIONS:
                    if found := rates(records, case, side).values():
                        rate = statistics.median(found), case["batch"]
                        best[side] = max(best.get(side, rate), rate)
            for side, (rate, batch) in best.items():
                ratio = (
                    f"{best[IMPLEMENTATIONS[0]][0] / rate:.3g}"
                    if IMPLEMENTATIONS[0] in best
                    else "-"
                )
                lines.append((network, task, side, batch, _rounded(rate, 3), ratio))
    title = "**best batch of each side**: medians"
    several = len({(r["task"], r["batch"]) for r in records if "batch" in r}) > 2
    return f"{title}\n\n{_table(header, lines)}" if several and lines else ""


def _starts(records: Records) -> str:
    """Seconds until the first step is done, anew and from the cache."""
    header = (
        *("network", "task", "batch", "side", "first step", "a later step"),
        *("CPU seconds", "from the process's start"),
        *("first step, cached", "from the start, cached"),
    )
    lines = []
    for case in [c for t in ("training", "inference") for c in _cases(records, t)]:
        for side in IMPLEMENTATIONS:
            starts = [r for r in _of(records, "start", case, side) if not fault(r)]
            cold = next((r for r in starts if not r["cached"]), None)
            warm = next((r for r in starts if r["cached"]), None)
            if cold is None:
                continue
            step = [case["batch"] / x for x in rates(records, case, side).values()]
            anew = _seconds(cold, ("first_step", "first_step_cpu", "since_start"))
            cached = _seconds(warm, ("first_step", "since_start"))
            later = f"{statistics.median(step):.3g}" if step else "-"
            lines.append(
                (
                    *(case["network"], case["task"], case["batch"], side),
                    *(anew[0], later, *anew[1:], *cached),
                )
            )
    together = any(r.get("side_by_side") for r in records)
    title = "**starts**: seconds" + (", of all sides at once" if together else "")
    return f"{title}\n\n{_table(header, lines)}" if lines else ""


def _seconds(record: dict[str, Any] | None, names: Sequence[str]) -> list[str]:
    return [f"{record[name]:.3g}" if record else "-" for name in names]


def _missing(records: Records) -> str:
    """What was not measured, each with its reason, and parameters that differ."""
    found = []
    for r in records:
        if reason := r.get("reason") or fault(r):
            words = f"{r['network']}, {r['task']}, batch {r['batch']}"
            found.append(
                f"- not measured: {r.get('side', 'all')}, {words}: {escape_cell(reason)}"
            )
    return "\n".join(dict.fromkeys([*found, *_parameters(records)]))


def _parameters(records: Records) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    for r in records:
        if r.get("parameters"):
            counts[r["network"], r["side"]] = r["parameters"]
    for (network, side), count in counts.items():
        if counts.get((network, IMPLEMENTATIONS[0]), count) != count:
            yield (
                f"- {side}'s {network} has {count:,} parameters, {IMPLEMENTATIONS[0]}' "
                f"{counts[network, IMPLEMENTATIONS[0]]:,}"
            )


def _table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    def row(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(str(c) for c in cells)} |"

    return "\n".join([row(header), row(["---"] * len(header)), *map(row, lines)])
