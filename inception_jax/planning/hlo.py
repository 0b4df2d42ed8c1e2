# SPDX-License-Identifier: Apache-2.0
"""What a compiled program moves, read off its text: between chips, and to and from HBM;
and which module of the network it does so for.

`cost_analysis` gives the bytes of every operand and result, wherever it lies. The text of
a program for a TPU says where, as S(1) for the memory on the chip, and only the rest
passes through HBM.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter"),
    *("all-to-all", "collective-permute", "collective-broadcast"),
)
# These name memory or wait for it, and move nothing.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"),
    *("conditional", "partition-id", "replica-id", "after-all", "iota"),
)
_CALLING = ("while", "call", "async-start")  # the rest of those that call are kernels
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ORIGIN = re.compile(r'op_name="([^"]*)"')
_LIBRARY_CALL = re.compile(r'custom_call_target="(__cu[^"]*)"')


@dataclass(frozen=True)
class Movement:
    """Of one run of a program, on one chip.

    Each kernel reads its operands and writes its results whole and once, padded as they
    lie in memory.
    """

    counts: dict[str, int]  # of collectives, by kind
    bytes: dict[str, int]  # of what each kind gives, as the chip has it afterwards
    overlapping: int  # collectives during which the program goes on
    hbm_bytes: int  # read from and written to HBM
    total_bytes: int  # and to and from the memory on the chip
    cycles: int  # that the compiler expects of its kernels; 0 where it does not say


@dataclass(frozen=True)
class ModuleCost:
    """What the kernels that come from one module do, as in `Movement`."""

    hbm_bytes: int = 0
    cycles: int = 0


class _Instruction(NamedTuple):
    name: str
    result: str  # its arrays, as written
    operation: str
    rest: str  # operands and attributes


def read_movement(text: str) -> Movement:
    """Read `Compiled.as_text()`."""
    computations, entry = _computations(text)
    counts, sizes, plain = Counter(), Counter(), Counter()
    for computation, runs in _executed(computations, entry, within_kernels=True):
        for instruction in computations[computation]:
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                counts[kind] += runs
                sizes[kind] += runs * _payload(instruction)
                plain["overlapping"] += runs * instruction.operation.endswith("-start")
    for _, work in _work(computations, entry):
        plain.update(work)
    fields = ("overlapping", "hbm_bytes", "total_bytes", "cycles")
    return Movement(dict(counts), dict(sizes), **{name: plain[name] for name in fields})


def cost_by_module(text: str, modules: Collection[str]) -> dict[str, ModuleCost]:
    """`Movement` shared out among `modules`; under "" what comes from none of them.

    A kernel that was made of several modules' operations counts for the one of its result.
    Of modules within each other the outermost counts. What the compiler adds, such as
    copies between HBM and the memory on the chip, counts for the module whose result it
    takes.
    """
    computations, entry = _computations(text)
    origins = _origins(computations, modules)
    found = {name: Counter() for name in {*modules, ""}}
    for instruction, work in _work(computations, entry):
        found[origins[instruction.name]].update(work)
    return {name: ModuleCost(x["hbm_bytes"], x["cycles"]) for name, x in found.items()}


def bytes_by_operation(text: str) -> dict[str, int]:
    """`Movement.total_bytes` shared out: by the function of cuDNN or cuBLAS that is called,
    or else the operation, such as "fusion"."""
    computations, entry = _computations(text)
    found = Counter()
    for instruction, work in _work(computations, entry):
        call = _LIBRARY_CALL.search(instruction.rest)
        found[call[1] if call else instruction.operation] += work.get("total_bytes", 0)
    return dict(found)


def _work(
    computations: dict[str, list[_Instruction]], entry: str
) -> Iterator[tuple[_Instruction, dict[str, int]]]:
    """Instructions, and what they add to the fields of `Movement`."""
    for computation, runs in _executed(computations, entry, within_kernels=True):
        for instruction in computations[computation]:
            if cycles := _CYCLES.search(instruction.rest):
                yield instruction, {"cycles": runs * int(cycles[1])}
    for computation, runs in _executed(computations, entry, within_kernels=False):
        for instruction, hbm, chip in _traffic(computations[computation]):
            yield instruction, {"hbm_bytes": runs * hbm, "total_bytes": runs * (hbm + chip)}


def _origins(
    computations: dict[str, list[_Instruction]], modules: Collection[str]
) -> dict[str, str]:
    """By instruction, of `modules` the one it comes from, or ""."""
    found: dict[str, str] = {}
    for instruction in chain.from_iterable(computations.values()):
        if named := _ORIGIN.search(instruction.rest):
            path = named[1].split("/")
        else:
            path = [found.get(operand, "") for operand in _operands(instruction)]
        found[instruction.name] = next((name for name in path if name in modules), "")
    return found


def _operands(instruction: _Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.partition("), ")[0])


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Instructions of every computation, and the name of the one that is run."""
    found: dict[str, list[_Instruction]] = {}
    name = entry = ""
    for line in text.splitlines():
        if header := _COMPUTATION.fullmatch(line):
            name = header[1]
            found[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (match := _INSTRUCTION.match(line)):
            found[name].append(_Instruction(*match.groups()))
    return found, entry


def _executed(
    computations: dict[str, list[_Instruction]],
    name: str,
    runs: int = 1,
    *,
    within_kernels: bool,
) -> Iterator[tuple[str, int]]:
    """The computation, those it calls, and how often each is run."""
    yield name, runs
    for instruction in computations[name]:
        if not within_kernels and instruction.operation not in _CALLING:
            continue
        trips = _TRIPS.search(instruction.rest)
        times = runs * int(trips[1]) if trips else runs
        for called in _CALLED.findall(instruction.rest):
            yield from _executed(computations, called, times, within_kernels=within_kernels)


def _payload(instruction: _Instruction) -> int:
    """Bytes of the result, without padding; some start with naming their operands."""
    arrays = _ARRAY.findall(instruction.result)
    if instruction.operation in ("all-gather-start", "collective-permute-start"):
        arrays = [array for array in arrays if array[1]]  # without semaphores
        arrays = arrays[len(arrays) // 2 :]
    return sum(_size(*array, padded=False) for array in arrays)


def _traffic(
    instructions: list[_Instruction],
) -> Iterator[tuple[_Instruction, int, int]]:
    """Each instruction, with the bytes in HBM and on the chip that it reads and writes."""
    where: dict[str, tuple[int, int]] = {}
    for instruction in instructions:
        name, result, operation, _ = instruction
        arrays = _ARRAY.findall(result)
        if operation == "slice-start":
            # ((from), part, semaphore): as much is read of the first as is written.
            source, part = arrays[:2]
            there = part[2] if "S(" in source[2] else part[2].partition("S(")[0]
            arrays = [part, (*part[:2], there)]
        elif _LIBRARY_CALL.search(instruction.rest):
            arrays = arrays[:-1]  # the last is room to work in
        where[name] = _by_place(arrays)
        if operation in _FREE or operation.endswith("-done"):
            continue
        hbm, chip = where[name]
        if not operation.endswith("-start"):  # those name their operands in the result
            for operand in _operands(instruction):
                more = where.get(operand, (0, 0))
                hbm, chip = hbm + more[0], chip + more[1]
        yield instruction, hbm, chip


def _by_place(arrays: list[tuple[str, str, str]]) -> tuple[int, int]:
    sizes = [(_size(*array, padded=True), "S(" in array[2]) for array in arrays]
    on_chip = sum(size for size, chip in sizes if chip)
    return sum(size for size, _ in sizes) - on_chip, on_chip


def _size(kind: str, shape: str, layout: str, *, padded: bool) -> int:
    """Bytes of an array; `padded` to whole tiles, as it lies in memory."""
    digits = re.search(r"\d+", kind)
    bits = 8 if kind == "pred" else int(digits[0]) if digits else 0
    sizes = [int(size) for size in shape.split(",") if size]
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if padded and tile and sizes:
        minor_first = [int(axis) for axis in layout.partition(":")[0].split(",")]
        for axis, step in zip(minor_first, reversed(tile[1].split(",")), strict=False):
            sizes[axis] = -(-sizes[axis] // int(step)) * int(step)
    return math.prod(sizes) * bits // 8
