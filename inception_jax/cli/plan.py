# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax plan`."""

import sys
from functools import partial
from importlib.metadata import version
from typing import Annotated, Literal

import tyro

from inception_jax.cli.arguments import ImageSize
from inception_jax.config import AugmentConfig, ParallelConfig, RunConfig
from inception_jax.models.zoo import get_spec
from inception_jax.planning.plan import LargestBatch, Plan, as_json, make_plan
from inception_jax.planning.roofline import GIB
from inception_jax.text import table
from inception_jax.training.from_config import preprocess_for


def plan_training(
    network: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")],
    /,
    topology: Annotated[str, tyro.conf.arg(metavar="CHIP:SHAPE")] = "v5e:4x4",
    batch: int = 640,
    image_size: ImageSize = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    accumulate: int = 1,
    remat: bool = False,
    bn_sync: Literal["none", "global"] | int = "none",
    stale_replicas: int = 1,
    largest: bool = True,
    fresh: bool = False,
    json: bool = False,
) -> None:
    """Estimate the memory and time of training on a TPU slice, without a TPU.

    Example: inception-jax plan inception_v4 --topology v5e:4x4 --batch 2048

    libtpu, the TPU compiler, compiles the training step for the slice. Nothing is run, so
    all times are estimates. Each compilation takes minutes. About three compilations are
    needed, or one with --no-largest. Results are cached in ~/.cache/inception_jax/plan.

    Args:
        network: Name of a network; inception-jax networks lists them.
        topology: Chip and shape of the slice, such as v5e:16x16, v4:2x2x1 or v6e:8x8.
        batch: Global batch size: images per step on all chips together.
        dtype: Data type of the computation.
        accumulate: Split each chip's share of the batch into this many parts, to save
            memory; their gradients are averaged.
        remat: Recompute the activations of blocks in the backward pass, to save memory.
        bn_sync: Chips that share batch statistics: none, global (all) or a number.
        stale_replicas: Number of simulated replicas with stale gradients. With more than
            one, every chip holds a copy of the parameters for each replica.
        largest: Also search for the largest batch per chip that fits in memory, among
            powers of two times --accumulate.
        fresh: Ignore cached results and recompile.
        json: Print all figures as JSON.
    """
    config = RunConfig(
        network=network,
        batch_size=batch,
        image_size=image_size,
        dtype=dtype,
        accumulate=accumulate,
        remat=remat,
        parallel=ParallelConfig("shard_map", bn_sync, stale_replicas),
        augment=AugmentConfig(color=get_spec(network).image_shape[2] == 3),
    )
    log = partial(print, file=sys.stderr, flush=True)
    try:
        plan = make_plan(config, topology, largest=largest, fresh=fresh, log=log)
    except KeyboardInterrupt:
        log("\nInterrupted; completed compilations are cached.")
        raise SystemExit(130) from None
    print(as_json(plan) if json else describe(plan))


def describe(plan: Plan) -> str:
    """Return all figures of a plan as text."""
    sections = (_title, _memory, _work, _time, _stages, _scaling)
    return "\n\n".join(section(plan) for section in sections)


def _title(plan: Plan) -> str:
    config, tpu_slice = plan.config, plan.slice
    height, width, channels = preprocess_for(config).image_shape
    return (
        f"{config.network} at {height}x{width}x{channels} in {config.dtype} on "
        f"{tpu_slice.name} ({tpu_slice.chips} x {tpu_slice.chip.kind}): "
        f"{config.batch_size} images per step, {plan.images} per chip.\n"
        f"Compiled in {plan.program.seconds:.0f} s by jax {version('jax')}, libtpu "
        f"{version('libtpu')}. Nothing was run: all times are estimates."
    )


def _memory(plan: Plan) -> str:
    memory, hbm = plan.program.memory, plan.slice.chip.hbm
    rows = [
        ("training state and batch", _gib(memory["arguments"])),
        ("results not stored in place", _gib(memory["results"] - memory["reused"])),
        ("temporary", _gib(memory["temporary"])),
        ("code", _gib(memory["code"])),
        ("total", f"{_gib(plan.program.needed)} of {hbm / GIB:.0f} GiB"),
    ]
    text = table(("memory per chip", "as compiled"), rows)
    return f"{text}\n{_largest(plan, plan.largest)}" if plan.largest else text


def _largest(plan: Plan, largest: LargestBatch) -> str:
    images, refused = largest.images, largest.refused
    next_images = 2 * images or plan.config.accumulate
    fits = "none"
    if program := largest.program:
        fits = f"{images} images, which need {_gib(program.needed)}"
        per_image = plan.program.flops / plan.images
        recomputed = program.flops / images / per_image - 1
        if recomputed > 0.01:
            fits += f"; {recomputed:.0%} of the operations are recomputed to save memory"
    return (
        f"Largest batch per chip that fits: {fits}. A batch of {next_images} would need at "
        f"least {_gib(refused.needed)} of {_gib(refused.available)}.\n"
        f"Compiled for {largest.topology}; {images * plan.slice.chips} images per step on "
        f"all chips of {plan.slice.name}."
    )


def _work(plan: Plan) -> str:
    """Return the section on operations and bytes of a step.

    The compiler's count differs from 6 operations per multiply-accumulate (2 forward, 4
    backward): it excludes the zeros of "SAME" padding and includes batch normalisation.
    """
    program, images, movement = plan.program, plan.images, plan.program.movement
    flops = program.flops / images
    operations = (
        f"{flops / 1e9:.1f} G, {flops / (6 * program.macs):.3f} of "
        f"6 x {program.macs / 1e9:.2f} GMACs"
    )
    traffic = (
        f"{_mb(movement.hbm_bytes / images, 0)} to and from HBM, "
        f"{_mb(movement.total_bytes / images, 0)} with on-chip memory"
    )
    counts = movement.counts.items()
    kinds = [f"{count} {kind} of {_mb(movement.bytes[kind])}" for kind, count in counts]
    overlap = f"{movement.overlapping or 'none'} of them overlapped with computation"
    gradients, statistics = _mb(4 * program.params), _mb(4 * program.statistics)
    reference = f"{gradients} of gradients, {statistics} of batch statistics (float32)"
    rows = [
        ("operations per image", operations),
        ("memory traffic per image", traffic),
        ("collectives per step", f"{', '.join(kinds) or 'none'}; {overlap}"),
        ("for comparison", reference),
    ]
    return table(("work", "as compiled"), rows)


def _time(plan: Plan) -> str:
    chip, chips = plan.slice.chip, plan.slice.chips

    def rate(images_per_second: float) -> str:
        total = images_per_second * chips
        return f"{images_per_second:,.0f} images/s per chip, {total:,.0f} on all"

    most = f"at most {rate(plan.images_per_second)}"
    rows = [
        ("operations", _ms(plan.compute_seconds), f"at {chip.peak / 1e12:.0f} TFLOP/s"),
        ("HBM", _ms(plan.hbm_seconds), f"at {chip.hbm_rate / 1e9:.0f} GB/s"),
        ("roofline, the longer of the two", _ms(plan.step_seconds), most),
    ]
    if seconds := plan.expected_seconds:
        throughput = f"{rate(plan.images / seconds)}, without the all-reduce"
        rows.append(("compiler's estimate", _ms(seconds), throughput))
    return table(("time of a step, estimated", "", ""), rows, right=(1,))


def _stages(plan: Plan) -> str:
    """Return the section on stages, with 6 operations per multiply-accumulate."""
    chip = plan.slice.chip
    clock = chip.clock if plan.expected_seconds else None
    header = ["time by stage, estimated", "operations", "HBM"]
    if clock:
        header.append("compiler's estimate")
    rows = []
    for work in plan.program.stages:
        times = [6 * work.macs * plan.images / chip.peak, work.hbm_bytes / chip.hbm_rate]
        if clock:
            times.append(work.cycles / clock)
        name = work.stage or "other: loss, optimizer, averages"
        rows.append((name, *map(_ms, times)))
    return table(header, rows, right=range(1, len(header)))


def _scaling(plan: Plan) -> str:
    header = ("chips", "all-reduce, estimated", "efficiency, waiting", "overlapped")
    rows = [
        (str(x.chips), _ms(x.all_reduce_seconds), f"{x.waiting:.1%}", f"{x.overlapped:.1%}")
        for x in plan.scaling
    ]
    note = (
        f"Fraction of the roofline's speed with {plan.images} images per chip, if the step "
        "waits for the\nall-reduce or overlaps with it. Only the bandwidth of the links "
        "limits the all-reduce."
    )
    return f"{table(header, rows, right=(0, 1, 2, 3))}\n{note}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _mb(size: float | int, digits: int = 1) -> str:
    return f"{size / 1e6:.{digits}f} MB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
