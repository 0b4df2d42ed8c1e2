# SPDX-License-Identifier: Apache-2.0
"""Read collectives, memory traffic and cycles from the HLO text of a compiled program.

XLA's `cost_analysis` counts the bytes of all operands and results. The HLO text of a TPU
program also states where each array is stored: S(n) in a layout is on-chip memory, and
all other arrays pass through HBM.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter"),
    *("all-to-all", "collective-permute", "collective-broadcast"),
)
# Operations that move no data.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"),
    *("conditional", "partition-id", "replica-id", "after-all", "iota"),
)
# Operations that run other computations. All other operations with `calls=` are kernels.
_CALLING = ("while", "call", "async-start")
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
    """Collectives, memory traffic and cycles of one run of a program on one chip.

    Each kernel is assumed to read its operands and write its results once, completely, with
    the padding of their layout in memory.
    """

    counts: dict[str, int]  # number of collectives, by kind
    bytes: dict[str, int]  # size of their results on this chip, by kind
    overlapping: int  # collectives during which the program continues
    hbm_bytes: int  # read from and written to HBM
    total_bytes: int  # HBM and on-chip memory together
    cycles: int  # the compiler's estimate for its kernels; 0 if it gives none


class Cost(NamedTuple):
    """The part of `Movement` that some of the kernels account for."""

    hbm_bytes: int = 0
    total_bytes: int = 0
    cycles: int = 0


class _Array(NamedTuple):
    dtype: str
    shape: str
    layout: str

    @property
    def on_chip(self) -> bool:
        return "S(" in self.layout

    def num_bytes(self, *, padded: bool) -> int:
        """Return the size in bytes; with `padded`, in whole tiles as laid out in memory."""
        digits = re.search(r"\d+", self.dtype)
        bits = 8 if self.dtype == "pred" else int(digits[0]) if digits else 0
        sizes = [int(size) for size in self.shape.split(",") if size]
        tile = re.search(r"T\(([\d,]+)\)", self.layout)
        if padded and tile and sizes:
            minor_to_major = map(int, self.layout.partition(":")[0].split(","))
            tile_sizes = map(int, reversed(tile[1].split(",")))
            for axis, tile_size in zip(minor_to_major, tile_sizes, strict=False):
                sizes[axis] = math.ceil(sizes[axis] / tile_size) * tile_size
        return math.prod(sizes) * bits // 8


class _Instruction(NamedTuple):
    name: str
    result: str  # its arrays, as written
    operation: str
    rest: str  # operands and attributes

    @property
    def arrays(self) -> list[_Array]:
        return [_Array(*fields) for fields in _ARRAY.findall(self.result)]

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.partition("), ")[0])


@dataclass(frozen=True)
class _Program:
    computations: dict[str, list[_Instruction]]
    entry: str  # name of the computation that is run

    def executed(
        self, name: str = "", runs: int = 1, *, within_kernels: bool
    ) -> Iterator[tuple[list[_Instruction], int]]:
        """Yield a computation and those it calls, each with the number of its runs."""
        instructions = self.computations[name or self.entry]
        yield instructions, runs
        for instruction in instructions:
            if within_kernels or instruction.operation in _CALLING:
                trips = _TRIPS.search(instruction.rest)
                times = runs * int(trips[1]) if trips else runs
                for called in _CALLED.findall(instruction.rest):
                    yield from self.executed(called, times, within_kernels=within_kernels)


def read_movement(hlo: str) -> Movement:
    """Return the `Movement` of a program, from its `Compiled.as_text()`."""
    program = _parse(hlo)
    counts, sizes, overlapping = Counter[str](), Counter[str](), 0
    for instructions, runs in program.executed(within_kernels=True):
        for instruction in instructions:
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                counts[kind] += runs
                sizes[kind] += runs * _payload(instruction)
                if kind != instruction.operation:
                    overlapping += runs
    total = _sum(cost for _, cost in _costs(program))
    return Movement(dict(counts), dict(sizes), overlapping, **total._asdict())


def cost_by_module(hlo: str, modules: Collection[str]) -> dict[str, Cost]:
    """Split a program's `Movement` among `modules`; the rest has the key "".

    A kernel fused from operations of several modules counts for the module of its result.
    Of nested modules the outermost counts. Operations that the compiler adds, such as
    copies between HBM and on-chip memory, count for the module whose result they use.
    """
    program = _parse(hlo)
    origins = _origins(program, modules)
    costs = dict.fromkeys([*modules, ""], Cost())
    for instruction, cost in _costs(program):
        origin = origins[instruction.name]
        costs[origin] = _sum([costs[origin], cost])
    return costs


def bytes_by_operation(hlo: str) -> dict[str, int]:
    """Split `Movement.total_bytes` by operation, such as "fusion".

    Calls to cuDNN and cuBLAS are listed by the name of the called function.
    """
    sizes = Counter[str]()
    for instruction, cost in _costs(_parse(hlo)):
        call = _LIBRARY_CALL.search(instruction.rest)
        sizes[call[1] if call else instruction.operation] += cost.total_bytes
    return dict(sizes)


def _parse(hlo: str) -> _Program:
    computations: dict[str, list[_Instruction]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.fullmatch(line):
            name = header[1]
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (match := _INSTRUCTION.match(line)):
            computations[name].append(_Instruction(*match.groups()))
    return _Program(computations, entry)


def _sum(costs: Iterable[Cost]) -> Cost:
    return Cost(*map(sum, zip(*costs, strict=True)))


def _costs(program: _Program) -> Iterator[tuple[_Instruction, Cost]]:
    """Yield instructions with their costs, which add up to those of the program."""
    for instructions, runs in program.executed(within_kernels=True):
        for instruction in instructions:
            if cycles := _CYCLES.search(instruction.rest):
                yield instruction, Cost(cycles=runs * int(cycles[1]))
    for instructions, runs in program.executed(within_kernels=False):
        for instruction, hbm, on_chip in _traffic(instructions):
            yield instruction, Cost(runs * hbm, runs * (hbm + on_chip))


def _origins(program: _Program, modules: Collection[str]) -> dict[str, str]:
    """Return for each instruction the module of `modules` that it comes from, or ""."""
    origins: dict[str, str] = {}
    for instructions in program.computations.values():
        for instruction in instructions:
            if op_name := _ORIGIN.search(instruction.rest):
                candidates = op_name[1].split("/")
            else:
                candidates = [origins.get(name, "") for name in instruction.operands]
            origin = next((name for name in candidates if name in modules), "")
            origins[instruction.name] = origin
    return origins


def _payload(instruction: _Instruction) -> int:
    """Return the unpadded bytes of a collective's result."""
    arrays = instruction.arrays
    if instruction.operation in ("all-gather-start", "collective-permute-start"):
        # The result is (operands, results, semaphores); semaphores are scalars.
        arrays = [array for array in arrays if array.shape]
        arrays = arrays[len(arrays) // 2 :]
    return sum(array.num_bytes(padded=False) for array in arrays)


def _traffic(instructions: list[_Instruction]) -> Iterator[tuple[_Instruction, int, int]]:
    """Yield each instruction with the bytes that it moves in HBM and in on-chip memory."""
    result_sizes: dict[str, tuple[int, int]] = {}
    for instruction in instructions:
        operation, arrays = instruction.operation, instruction.arrays
        if operation == "slice-start":
            # The result is (source, part, semaphore). Only a part of the source is read.
            source, part = arrays[:2]
            layout = part.layout if source.on_chip else part.layout.partition("S(")[0]
            arrays = [part, part._replace(layout=layout)]
        elif _LIBRARY_CALL.search(instruction.rest):
            arrays = arrays[:-1]  # the last is workspace
        hbm = sum(array.num_bytes(padded=True) for array in arrays if not array.on_chip)
        on_chip = sum(array.num_bytes(padded=True) for array in arrays if array.on_chip)
        result_sizes[instruction.name] = hbm, on_chip
        if operation in _FREE or operation.endswith("-done"):
            continue
        if not operation.endswith("-start"):  # the result of those includes the operands
            for operand in instruction.operands:
                operand_hbm, operand_on_chip = result_sizes.get(operand, (0, 0))
                hbm, on_chip = hbm + operand_hbm, on_chip + operand_on_chip
        yield instruction, hbm, on_chip
