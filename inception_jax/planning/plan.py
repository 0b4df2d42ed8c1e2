# SPDX-License-Identifier: Apache-2.0
"""What a training run will need and cost on a TPU slice, before one is rented."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from inception_jax.config import RunConfig
from inception_jax.models.network import get_spec
from inception_jax.planning import aot
from inception_jax.planning.aot import Compiled, Refused
from inception_jax.planning.roofline import Slice, efficiency, slice_named


@dataclass(frozen=True)
class Scaling:
    """As many chips of a kind, each with the images it has in the plan."""

    chips: int
    all_reduce_seconds: float
    waiting: float  # share of the speed without an all-reduce, if the step waits for it
    overlapped: float  # and if the step goes on meanwhile


@dataclass(frozen=True)
class Largest:
    """The most images per chip, of powers of two, that the compiler finds room for."""

    images: int  # 0: none
    topology: str  # that it was compiled for, the smallest of the kind
    program: Compiled | None  # which may compute things twice to save memory; None: none
    refused: Refused  # twice as many


@dataclass(frozen=True)
class Plan:
    """A training step on a slice; times are the least the chip's figures allow."""

    config: RunConfig
    slice: Slice
    program: Compiled
    largest: Largest | None  # None: not asked for

    @property
    def images(self) -> int:
        """Of a step, on one chip."""
        return self.config.batch_size // self.slice.chips

    @property
    def compute_seconds(self) -> float:
        return self.program.flops / self.slice.chip.peak

    @property
    def hbm_seconds(self) -> float:
        return self.program.movement.hbm_bytes / self.slice.chip.hbm_rate

    @property
    def step_seconds(self) -> float:
        """The roofline: a step takes at least this long."""
        return max(self.compute_seconds, self.hbm_seconds)

    @property
    def images_per_second(self) -> float:
        """Of one chip: at most."""
        return self.images / self.step_seconds

    @property
    def expected_seconds(self) -> float | None:
        """The compiler's own expectation of its kernels; None where it is not known."""
        clock, cycles = self.slice.chip.clock, self.program.movement.cycles
        return cycles / clock if clock and cycles else None

    @property
    def scaling(self) -> tuple[Scaling, ...]:
        """At the roofline, where the all-reduce weighs most."""
        size = self.program.movement.bytes.get("all-reduce", 0)
        kind = self.slice.name.partition(":")[0]
        found = []
        for shape in self.slice.chip.slices:
            other = slice_named(f"{kind}:{shape}")
            seconds = other.all_reduce_seconds(size)
            found.append(
                Scaling(other.chips, seconds, *efficiency(self.step_seconds, seconds))
            )
        return tuple(found)


def plan(
    config: RunConfig,
    topology: str,
    *,
    largest: bool,
    fresh: bool = False,
    say: Callable[[str], None],
) -> Plan:
    """Compile the step of a run for a slice, and smaller or larger batches if asked for.

    `say` gets a line before each compilation, which takes minutes and is kept on disk;
    with `fresh` none of those kept is used.

    Raises ValueError, before anything is compiled, where network, slice and batch do not
    fit together, and where the compiler has no room for the batch.
    """
    get_spec(config.network)
    # What pmap is inside.
    config = replace(config, parallel=replace(config.parallel, wrapper="shard_map"))
    chips = slice_named(topology)
    _check_divides(config, chips)
    step = partial(aot.compiled, fresh=fresh, say=say)
    program = step(config, topology)
    found = _largest(config, chips, program, step) if largest else None
    if isinstance(program, Refused):
        raise ValueError(_refused(config, chips, program, found))
    return Plan(config, chips, program, found)


def _check_divides(config: RunConfig, chips: Slice) -> None:
    parts = chips.chips * config.accumulate
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        choices = " or ".join(str(n) for n in (below, below + parts) if n)
        raise ValueError(
            f"batch must be a multiple of {parts} ({chips.chips} chips x accumulate "
            f"{config.accumulate}), got {config.batch_size}; the nearest: {choices}."
        )
    if isinstance(config.parallel.bn_sync, int) and chips.chips % config.parallel.bn_sync:
        raise ValueError(
            f"bn_sync must divide the {chips.chips} chips of {chips.name}, got "
            f"{config.parallel.bn_sync}."
        )


def _largest(
    config: RunConfig, chips: Slice, program: Compiled | Refused, step: Callable[..., Any]
) -> Largest:
    """Compiled for the smallest slice: what a chip needs is the same on all of them.

    The first guess has the memory grow with the batch, a third slower than up to here:
    large batches waste less of it. If it is right, two compilations are enough.
    """
    smallest = slice_named(f"{chips.name.partition(':')[0]}:{chips.chip.slices[0]}")
    images = config.batch_size // chips.chips
    if isinstance(program, Refused):
        growing, fixed = program.needed, 0
    else:
        growing = program.memory["temporary"]
        fixed = program.needed - growing
    room = 1.5 * (chips.chip.hbm - fixed) / (growing / images)
    size = config.accumulate
    while size * 2 <= room:
        size *= 2

    def at(size: int) -> Compiled | Refused:
        return step(replace(config, batch_size=size * smallest.chips), smallest.name)

    found = at(size)
    if isinstance(found, Refused):
        while isinstance(found, Refused) and size > config.accumulate:
            refused, size = found, size // 2
            found = at(size)
        if isinstance(found, Refused):
            return Largest(0, smallest.name, None, found)
        return Largest(size, smallest.name, found, refused)
    while isinstance(bigger := at(size * 2), Compiled):
        found, size = bigger, size * 2
    return Largest(size, smallest.name, found, bigger)


def _refused(
    config: RunConfig, chips: Slice, program: Refused, largest: Largest | None
) -> str:
    gib = 2**30
    most = (
        f"at most {largest.images} fit, a batch of {largest.images * chips.chips}"
        if largest and largest.images
        else "choose a smaller --batch"
    )
    return (
        f"{config.batch_size // chips.chips} images per chip of {chips.name} need at least "
        f"{program.needed / gib:.1f} GiB of its {program.available / gib:.2f} GiB of HBM; "
        f"{most}, or --accumulate parts of it{'' if config.remat else ', or --remat'}."
    )


def as_json(found: Plan) -> str:
    """All figures, for programs."""
    names = ("images", "compute_seconds", "hbm_seconds", "step_seconds")
    names += ("images_per_second", "expected_seconds")
    figures = asdict(found) | {name: getattr(found, name) for name in names}
    figures["scaling"] = [asdict(row) for row in found.scaling]
    return json.dumps(figures, indent=1, default=str)
