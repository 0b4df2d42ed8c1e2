# SPDX-License-Identifier: Apache-2.0
"""Estimate the memory and the time of a training step on a TPU slice."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

from inception_jax.config import RunConfig
from inception_jax.models.zoo import get_spec
from inception_jax.planning import aot
from inception_jax.planning.aot import CompiledStep, TooLarge
from inception_jax.planning.roofline import GIB, Slice, get_slice


@dataclass(frozen=True)
class Scaling:
    """Estimated efficiency of data parallelism on `chips` chips, at equal images per chip.

    Both are speeds relative to a step without an all-reduce: `waiting` if the all-reduce
    starts after the step, `overlapped` if it runs entirely during the step.
    """

    chips: int
    all_reduce_seconds: float
    waiting: float
    overlapped: float

    @classmethod
    def of(cls, chips: int, step: float, all_reduce: float) -> "Scaling":
        """Return the efficiency, from the seconds of a step and of its all-reduce."""
        waiting = step / (step + all_reduce)
        return cls(chips, all_reduce, waiting, overlapped=step / max(step, all_reduce))


@dataclass(frozen=True)
class LargestBatch:
    """The largest number of images per chip that fits, a power of two x `accumulate`."""

    images: int  # 0 if not even the smallest batch fits
    topology: str  # the slice compiled for, the smallest possible
    program: CompiledStep | None  # None if no batch fits
    refused: TooLarge  # result for twice as many, or for the smallest batch if none fits


@dataclass(frozen=True)
class Plan:
    """Estimates for a training step on a slice, from its compiled program.

    Times are estimates, not measurements. Those of the roofline are lower bounds.
    """

    config: RunConfig
    slice: Slice
    program: CompiledStep
    largest: LargestBatch | None  # None if it was not searched for

    @property
    def images(self) -> int:
        """Images per step on one chip."""
        return self.config.batch_size // self.slice.chips

    @property
    def compute_seconds(self) -> float:
        """Lower bound of the time for the step's floating-point operations."""
        return self.program.flops / self.slice.chip.peak

    @property
    def hbm_seconds(self) -> float:
        """Lower bound of the time for the step's HBM traffic."""
        return self.program.movement.hbm_bytes / self.slice.chip.hbm_rate

    @property
    def step_seconds(self) -> float:
        """Lower bound of the step's time by the roofline model."""
        return max(self.compute_seconds, self.hbm_seconds)

    @property
    def images_per_second(self) -> float:
        """Upper bound of one chip's throughput by the roofline model."""
        return self.images / self.step_seconds

    @property
    def expected_seconds(self) -> float | None:
        """The compiler's estimate of the step's time; None if it gives no cycle counts."""
        clock, cycles = self.slice.chip.clock, self.program.movement.cycles
        return cycles / clock if clock and cycles else None

    @property
    def scaling(self) -> tuple[Scaling, ...]:
        """Efficiency on every slice of this chip, at the roofline's speed.

        A slower step leaves more time for the all-reduce, so its efficiency is higher.
        """
        size = self.program.movement.bytes.get("all-reduce", 0)
        slices = map(get_slice, self.slice.alternatives)
        return tuple(
            Scaling.of(x.chips, self.step_seconds, x.all_reduce_seconds(size))
            for x in slices
        )


def make_plan(
    config: RunConfig,
    topology: str,
    *,
    largest: bool,
    fresh: bool = False,
    log: Callable[[str], None],
) -> Plan:
    """Compile a run's training step for a slice and return the estimates.

    With `largest`, further compilations search for the largest batch that fits. Each takes
    minutes and is announced through `log`. Results are cached on disk and reused, unless
    `fresh`.

    Raises ValueError if the network is unknown or the batch does not divide among the chips
    (before compiling), or if the batch does not fit in memory (after compiling).
    """
    get_spec(config.network)
    # Only shard_map can be lowered for absent devices. jax.pmap runs the same program.
    config = replace(config, parallel=replace(config.parallel, wrapper="shard_map"))
    tpu_slice = get_slice(topology)
    _check_divides(config, tpu_slice)
    compile_step = partial(aot.load_or_compile, fresh=fresh, log=log)
    program = compile_step(config, topology)
    largest_batch = None
    if largest:
        largest_batch = _find_largest_batch(config, tpu_slice, program, compile_step)
    if isinstance(program, TooLarge):
        raise ValueError(_too_large_message(config, tpu_slice, program, largest_batch))
    return Plan(config, tpu_slice, program, largest_batch)


def _check_divides(config: RunConfig, tpu_slice: Slice) -> None:
    chips, bn_sync = tpu_slice.chips, config.parallel.bn_sync
    parts = chips * config.accumulate
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        nearest = " or ".join(str(size) for size in (below, below + parts) if size)
        raise ValueError(
            f"batch must be a multiple of {parts} ({chips} chips x accumulate "
            f"{config.accumulate}), got {config.batch_size}; choose {nearest}."
        )
    if isinstance(bn_sync, int) and chips % bn_sync:
        raise ValueError(
            f"bn_sync must divide the {chips} chips of {tpu_slice.name}, got {bn_sync}."
        )


def _find_largest_batch(
    config: RunConfig,
    tpu_slice: Slice,
    program: CompiledStep | TooLarge,
    compile_step: Callable[[RunConfig, str], CompiledStep | TooLarge],
) -> LargestBatch:
    """Double or halve the images per chip, starting at a guess, until the limit is found.

    Compile for the smallest slice that `bn_sync` divides, because a chip needs the same
    memory on all slices. If the guess is right, two compilations suffice.
    """
    group = config.parallel.bn_sync
    smallest = next(
        candidate
        for candidate in map(get_slice, tpu_slice.alternatives)
        if not isinstance(group, int) or candidate.chips % group == 0
    )
    images = _guess_largest(config, tpu_slice, program)
    fitting, fitting_images = None, 0
    too_large = None
    while fitting is None or too_large is None:
        batch_size = images * smallest.chips
        result = compile_step(replace(config, batch_size=batch_size), smallest.name)
        if isinstance(result, CompiledStep):
            fitting, fitting_images = result, images
            images *= 2
        else:
            too_large = result
            if images == config.accumulate:
                break
            images //= 2
    assert too_large is not None
    return LargestBatch(fitting_images, smallest.name, fitting, too_large)


def _guess_largest(
    config: RunConfig, tpu_slice: Slice, program: CompiledStep | TooLarge
) -> int:
    """Extrapolate linearly from one program's memory, in powers of two x `accumulate`.

    The factor of 1.5 allows for larger batches, which need less temporary memory per
    image.
    """
    if isinstance(program, TooLarge):
        per_batch, fixed = program.needed, 0
    else:
        per_batch = program.memory["temporary"]
        fixed = program.needed - per_batch
    per_image = per_batch / (config.batch_size // tpu_slice.chips)
    limit = 1.5 * (tpu_slice.chip.hbm - fixed) / per_image
    images = config.accumulate
    while images * 2 <= limit:
        images *= 2
    return images


def _too_large_message(
    config: RunConfig, tpu_slice: Slice, program: TooLarge, largest: LargestBatch | None
) -> str:
    chips, fitting, remat = tpu_slice.chips, "", "" if config.remat else ", or use --remat"
    if largest and largest.images:
        batch = largest.images * chips
        fitting = f" At most {largest.images} images fit (--batch {batch})."
    needed, available = program.needed / GIB, program.available / GIB
    return (
        f"{config.batch_size // chips} images per chip of {tpu_slice.name} need at least "
        f"{needed:.1f} GiB of HBM, but {available:.2f} GiB are available.{fitting} Choose "
        f"a smaller --batch, or split the batch with --accumulate{remat}."
    )


def as_json(plan: Plan) -> str:
    """Return all fields and estimates of a plan as JSON."""
    names = ["images", "compute_seconds", "hbm_seconds", "step_seconds"]
    names += ["images_per_second", "expected_seconds"]
    figures = asdict(plan) | {name: getattr(plan, name) for name in names}
    figures["scaling"] = [asdict(row) for row in plan.scaling]
    return json.dumps(figures, indent=1, default=str)
