# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax plan`."""

import sys
from functools import partial
from importlib.metadata import version
from typing import Annotated, Literal

import tyro

from inception_jax.config import AugmentConfig, ParallelConfig, RunConfig
from inception_jax.models.network import get_spec
from inception_jax.planning.plan import LargestBatch, Plan, as_json, make_plan
from inception_jax.planning.roofline import GIB
from inception_jax.text import table
from inception_jax.training.from_config import preprocess_for


def plan_training(
    network: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")],
    /,
    topology: str = "v5e:4x4",
    batch: int = 640,
    image_size: int | None = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    accumulate: int = 1,
    remat: bool = False,
    bn_sync: Literal["none", "global"] | int = "none",
    largest: bool = True,
    fresh: bool = False,
    json: bool = False,
) -> None:
    """What will training need and cost on a TPU slice? Compiles its step; needs no TPU.

    Minutes for each compilation, one without --largest and about three with it; what was
    compiled once is kept in ~/.cache/inception_jax/plan.

    Args:
        network: a name of `inception-jax networks`.
        topology: chip and shape of the slice: v5e:4x4, v5e:16x16, v4:2x2x1, v6e:8x8, ...
        batch: images of a step, on all chips.
        image_size: height and width of the image; default: the network's own.
        dtype: of the computation.
        accumulate: parts of a chip's share that are gone through one after another.
        remat: compute blocks again for their gradients, to save memory.
        bn_sync: chips that share batch statistics: none, global or a number.
        largest: find the largest batch per chip that fits, among powers of two.
        fresh: compile anew.
        json: print all figures as JSON.
    """
    config = RunConfig(
        network=network,
        batch_size=batch,
        image_size=image_size,
        dtype=dtype,
        accumulate=accumulate,
        remat=remat,
        parallel=ParallelConfig("shard_map", bn_sync),
        augment=AugmentConfig(color=get_spec(network).image_shape[2] == 3),
    )
    log = partial(print, file=sys.stderr, flush=True)
    try:
        found = make_plan(config, topology, largest=largest, fresh=fresh, log=log)
    except KeyboardInterrupt:
        log("\nInterrupted; what was compiled before is kept.")
        raise SystemExit(130) from None
    print(as_json(found) if json else describe(found))


def describe(found: Plan) -> str:
    """All figures, for people."""
    parts = (_title, _memory, _work, _time, _stages, _scaling)
    return "\n\n".join(part(found) for part in parts)


def _title(found: Plan) -> str:
    config, chips = found.config, found.slice
    height, width, channels = preprocess_for(config).image_shape
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "libtpu"))
    return (
        f"{config.network} at {height}x{width}x{channels} in {config.dtype} on "
        f"{chips.name} ({chips.chips} x {chips.chip.kind}): {config.batch_size} images a "
        f"step, {found.images} per chip.\nThe training step, as jit(shard_map), which pmap "
        f"is inside; compiled in {found.program.seconds:.0f} s by {packages}."
    )


def _memory(found: Plan) -> str:
    memory, hbm = found.program.memory, found.slice.chip.hbm
    rows = [
        ("state and batch", _gib(memory["arguments"])),
        ("results in a place of their own", _gib(memory["results"] - memory["reused"])),
        ("temporary", _gib(memory["temporary"])),
        ("code", _gib(memory["code"])),
        ("together", f"{_gib(found.program.needed)}, of {hbm / GIB:.0f} GiB"),
    ]
    lines = [table(("memory per chip, by the compiler", ""), rows)]
    if found.largest:
        lines.append(_largest(found, found.largest))
    return "\n".join(lines)


def _largest(found: Plan, largest: LargestBatch) -> str:
    most, over = largest.images, largest.refused
    fits = "none"
    if program := largest.program:
        fits = f"with {_gib(program.needed)}"
        again = program.flops / most / (found.program.flops / found.images) - 1
        if again > 0.01:
            fits += f" and {again:.0%} of the operations done twice to save memory"
    return (
        f"Largest batch per chip that fits: {most} ({fits}; {max(2 * most, 1)} would need "
        f"at least {_gib(over.needed)} of {_gib(over.available)}), compiled for "
        f"{largest.topology}; {most * found.slice.chips} on all."
    )


def _work(found: Plan) -> str:
    """Of the operations, the compiler leaves out those on the zeros of "SAME" padding, and
    counts those of batch normalisation and the like, which 6 MACs does not."""
    program, images = found.program, found.images
    moved = program.movement
    per_image = program.flops / images
    kinds = [
        f"{count} {kind} of {moved.bytes[kind] / 1e6:.1f} MB"
        for kind, count in moved.counts.items()
    ]
    rows = [
        (
            "operations per image",
            f"{per_image / 1e9:.1f} G, {per_image / (6 * program.macs):.3f} of "
            f"6 x {program.macs / 1e9:.2f} GMACs",
        ),
        (
            "bytes per image",
            f"{moved.hbm_bytes / images / 1e6:.0f} MB to and from HBM, "
            f"{moved.total_bytes / images / 1e6:.0f} MB with memory on the chip",
        ),
        (
            "collectives per step",
            f"{', '.join(kinds) or 'none'}; {moved.overlapping or 'none'} of them while "
            "the step goes on",
        ),
        (
            "to compare",
            f"{program.params * 4 / 1e6:.1f} MB of gradients and "
            f"{program.statistics * 4 / 1e6:.1f} MB of batch statistics in float32",
        ),
    ]
    return table(("work", ""), rows)


def _time(found: Plan) -> str:
    chip, images = found.slice.chip, found.images
    rows = [
        ("operations", _ms(found.compute_seconds), f"at {chip.peak / 1e12:.0f} TFLOP/s"),
        ("HBM", _ms(found.hbm_seconds), f"at {chip.hbm_rate / 1e9:.0f} GB/s"),
        (
            "roofline, the longer",
            _ms(found.step_seconds),
            f"at most {found.images_per_second:,.0f} images/s per chip, "
            f"{found.images_per_second * found.slice.chips:,.0f} on all",
        ),
    ]
    if seconds := found.expected_seconds:
        rate = images / seconds
        rows.append(
            (
                "the compiler expects",
                _ms(seconds),
                f"{rate:,.0f} images/s per chip, {rate * found.slice.chips:,.0f} on all, "
                "without the all-reduce",
            )
        )
    return table(("time of a step, not measured", "", ""), rows, right=(1,))


def _stages(found: Plan) -> str:
    """Six operations for a multiply-accumulate, gradients included."""
    chip = found.slice.chip
    clock = chip.clock if found.expected_seconds else None
    header = ["by stage of the network", "operations", "HBM"]
    header += ["the compiler expects"] * bool(clock)
    rows = []
    for work in found.program.stages:
        times = [6 * work.macs * found.images / chip.peak, work.hbm_bytes / chip.hbm_rate]
        if clock:
            times.append(work.cycles / clock)
        name = work.stage or "the rest: loss, update, averages"
        rows.append((name, *map(_ms, times)))
    return table(header, rows, right=range(1, len(header)))


def _scaling(found: Plan) -> str:
    header = ("chips", "all-reduce", "speed kept, waiting", "overlapped")
    rows = [
        (
            str(row.chips),
            _ms(row.all_reduce_seconds),
            f"{row.waiting:.1%}",
            f"{row.overlapped:.1%}",
        )
        for row in found.scaling
    ]
    note = (
        f"With {found.images} images per chip at the roofline's speed, where the "
        "all-reduce weighs most;\nits time is that of the links' bandwidth alone."
    )
    return f"{table(header, rows, right=(0, 1, 2, 3))}\n{note}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
