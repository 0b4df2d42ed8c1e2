# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax ckpt ls`, `verify`, `diff` and `export`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from inception_jax.cli.arguments import NEWEST, Run, Step, Weights, option
from inception_jax.storage.files import CheckpointError
from inception_jax.storage.run_folder import (
    CHECKPOINTS_FOLDER,
    QUARANTINE_FOLDER,
    read_record,
)
from inception_jax.text import first_few, table
from inception_jax.weights.array_file import write_npz
from inception_jax.weights.export import check_output_path
from inception_jax.weights.model import open_checkpoints, read_checkpoint, read_run

Arrays = dict[str, np.ndarray]


def list_checkpoints(run: Run, /) -> None:
    """List the checkpoints of a run with their steps, times, sizes and digests.

    Example: inception-jax ckpt ls runs/digits

    The digest is that of all arrays and their names as saved: checkpoints with equal
    digests are identical. To verify the arrays on disk, use ckpt verify.
    """
    checkpoints = open_checkpoints(run)
    lines = []
    for step in checkpoints.steps():
        folder = run / CHECKPOINTS_FOLDER / str(step)
        on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        try:
            record = checkpoints.record(step)
        except CheckpointError:
            count, size, digest = "-", "-", "damaged"
        else:
            count = f"{len(record.leaves):,}"
            size = f"{sum(leaf.num_bytes for leaf in record.leaves.values()):,}"
            digest = record.digest[:16]
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime))
        lines.append((str(step), written, count, size, f"{on_disk:,}", digest))
    header = ("step", "written", "arrays", "bytes", "bytes on disk", "digest")
    print(table(header, lines, right=(0, 2, 3, 4)))
    quarantine = run / QUARANTINE_FOLDER
    damaged = sorted(path.name for path in quarantine.glob("*") if path.is_dir())
    if damaged:
        print(f"\nDamaged checkpoints in {quarantine}: {', '.join(damaged)}")


def verify_checkpoints(
    run: Run, /, step: Annotated[int | None, option("INT", "all")] = None
) -> None:
    """Read checkpoints and verify every array against its digest.

    Example: inception-jax ckpt verify runs/digits

    Exit status: 0 if all are intact, 1 if any is damaged. Nothing is changed.

    Args:
        step: Verify only the checkpoint of this step.
    """
    checkpoints = open_checkpoints(run, step)
    any_damaged = False
    for each in checkpoints.steps() if step is None else [step]:
        start = time.perf_counter()
        try:
            arrays = checkpoints.read(each)
        except CheckpointError as error:
            any_damaged = True
            print(f"step {each}: DAMAGED. {error}", flush=True)
            continue
        size = sum(x.nbytes for x in arrays.values())
        contents = f"{len(arrays):,} arrays, {size:,} bytes"
        seconds = time.perf_counter() - start
        print(f"step {each}: intact, {contents}, {seconds:.1f} s", flush=True)
    if any_damaged:
        raise SystemExit(1)


def diff_checkpoints(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    /,
    steps: Annotated[tuple[int, int] | None, option("INT INT", NEWEST)] = None,
) -> None:
    """Compare the training states of two runs, or of one run at two steps.

    Example: inception-jax ckpt diff runs/digits runs/digits --steps 100 200

    Prints the largest absolute and relative difference for each group of arrays. A relative
    difference is the absolute difference divided by the larger absolute value. Exit status:
    0 if the states are bit-identical, 1 if they differ, 2 for invalid arguments, 74 if one
    is damaged.

    Args:
        a: Folder of the first run.
        b: Folder of the second run, which may be the same.
        steps: Steps of the checkpoints of A and of B.
    """
    step_a, step_b = steps or (None, None)
    states = []
    for run, wanted_step in ((a, step_a), (b, step_b)):
        step, arrays = read_checkpoint(run, wanted_step)
        print(f"{run}: step {step}, {len(arrays):,} arrays")
        states.append(arrays)
    lines = _differences(*states)
    if not lines:
        print("identical")
        return
    header = ("group", "arrays", "differ", "largest difference", "largest relative")
    print(f"\n{table(header, lines, right=(1, 2, 3, 4))}")
    if incomparable := _incomparable(*states):
        print(f"\nmissing in one, or of different shape or type: {first_few(incomparable)}")
    raise SystemExit(1)


def export_checkpoint(
    run: Run,
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")],
    weights: Weights = "ema",
    step: Step = None,
) -> None:
    """Write the weights of a checkpoint to an .npz file, which NumPy reads without pickle.

    Example: inception-jax ckpt export runs/digits --out digits.npz

    Arrays have names such as params/Logits/kernel and batch_stats/... The file also holds
    two JSON strings: model.json (network, class names, preprocessing) and run.json (record
    of the run, step and weights). For other formats, use weights export.

    Args:
        out: New file to write.
    """
    check_output_path("npz", out)
    record = asdict(read_record(run))
    card, arrays = read_run(run, weights, step)
    saved_step = card.origin.step
    description = {**record, "step": saved_step, "weights": weights}
    write_npz(out, card, arrays, {"run.json": json.dumps(description, default=str)})
    count = sum(x.size for x in arrays.values())
    contents = f"{count:,} numbers in {len(arrays):,} arrays, of step {saved_step}"
    print(f"Wrote {contents}, to {out}.")


def _incomparable(a: Arrays, b: Arrays) -> list[str]:
    """Return the names of arrays that only one has, or that differ in shape or type."""

    def kind(arrays: Arrays, name: str) -> object:
        return (arrays[name].dtype, arrays[name].shape) if name in arrays else None

    return [name for name in a | b if kind(a, name) != kind(b, name)]


def _differences(a: Arrays, b: Arrays) -> list[tuple[str, ...]]:
    """Return a line for each group of arrays, such as params, that has differences."""
    incomparable = set(_incomparable(a, b))
    groups: dict[str, list[str]] = {}
    for name in a | b:
        groups.setdefault(name.split("/")[0], []).append(name)
    lines: list[tuple[str, ...]] = []
    for group, names in groups.items():
        comparable = [name for name in names if name not in incomparable]
        unequal = [n for n in comparable if a[n].tobytes() != b[n].tobytes()]
        count = len(names) - len(comparable) + len(unequal)
        if not count:
            continue
        absolute, relative = "-", "-"
        if unequal:
            largest = [_largest_differences(a[n], b[n]) for n in unequal]
            absolute = f"{max(x for x, _ in largest):.3g}"
            relative = f"{max(x for _, x in largest):.3g}"
        lines.append((group, f"{len(names):,}", f"{count:,}", absolute, relative))
    return lines


def _largest_differences(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference of two elements.

    They are infinite if one of two unequal elements is NaN or infinite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        absolute = np.where(equal, 0.0, np.abs(x - y))
        larger = np.where(equal, 1.0, np.maximum(np.abs(x), np.abs(y)))
        relative = absolute / larger
    largest = [np.where(np.isnan(x), np.inf, x).max() for x in (absolute, relative)]
    return float(largest[0]), float(largest[1])
