# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax ckpt ls`, `verify`, `diff` and `export`."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from inception_jax.storage.digests import CheckpointError, some
from inception_jax.storage.run_folder import checkpoints_path, read_record
from inception_jax.text import table
from inception_jax.weights.array_file import write_npz
from inception_jax.weights.export import check_output_path
from inception_jax.weights.model import (
    check_step,
    open_checkpoints,
    read_checkpoint,
    read_run,
)

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Arrays = dict[str, np.ndarray]


def list_checkpoints(run: Run, /) -> None:
    """The checkpoints of a run: step, when it was written, sizes, digest.

    The digest is one of all arrays and their names, as they were saved; two checkpoints
    with the same digest hold the same. Whether the arrays are still that: ckpt verify.

    Args:
        run: folder of a run.
    """
    saved = open_checkpoints(run)
    lines = []
    for step in saved.steps():
        path = checkpoints_path(run) / str(step)
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        try:
            record = saved.record(step)
        except CheckpointError:
            about = ("-", "-", "damaged")
        else:
            size = sum(leaf.num_bytes for leaf in record.leaves.values())
            about = (f"{len(record.leaves):,}", f"{size:,}", record.digest[:16])
        lines.append((str(step), written, *about[:2], f"{disk:,}", about[2]))
    header = ("step", "written", "arrays", "bytes", "bytes on disk", "digest")
    print(table(header, lines, right=(0, 2, 3, 4)))
    aside = run / "quarantine"
    if names := sorted(path.name for path in aside.glob("*") if path.is_dir()):
        print(f"\n{aside} holds damaged ones: {', '.join(names)}")


def verify_checkpoints(run: Run, /, step: int | None = None) -> None:
    """Read checkpoints and compare every array with its digest.

    Exits with 0 if all are as they were saved, 1 if one is not. Nothing is changed.

    Args:
        run: folder of a run.
        step: the checkpoint of this step alone.
    """
    saved = open_checkpoints(run)
    bad = False
    for each in saved.steps() if step is None else [check_step(saved, run, step)]:
        start = time.perf_counter()
        try:
            arrays = saved.read(each)
        except CheckpointError as error:
            bad = True
            print(f"step {each}: DAMAGED. {error}", flush=True)
        else:
            print(
                f"step {each}: good, {len(arrays):,} arrays, "
                f"{sum(x.nbytes for x in arrays.values()):,} bytes, "
                f"{time.perf_counter() - start:.1f} s",
                flush=True,
            )
    if bad:
        raise SystemExit(1)


def diff_checkpoints(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    /,
    steps: tuple[int, int] | None = None,
) -> None:
    """Where the states of two runs, or of one at two steps, are not the same.

    Exits with 0 if they are identical to the bit, 1 if not. A relative difference is that
    of two numbers divided by the larger one.

    Args:
        a: folder of a run.
        b: folder of a run.
        steps: of A and of B; default: the newest good one of each.
    """
    sides = []
    for run, wanted in zip((a, b), steps or (None, None), strict=True):
        step, arrays = read_checkpoint(run, wanted)
        print(f"{run}: step {step}, {len(arrays):,} arrays")
        sides.append(arrays)
    lines = list(_differences(*sides))
    if not lines:
        print("identical")
        return
    header = ("group", "arrays", "differ", "largest difference", "largest relative")
    print(f"\n{table(header, lines, right=(1, 2, 3, 4))}")
    if other := _of_another_kind(*sides):
        print(f"\nonly in one, or of another shape or type: {some(other)}")
    raise SystemExit(1)


def export_weights(
    run: Run,
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")],
    weights: Literal["raw", "ema"] = "ema",
    step: int | None = None,
) -> None:
    """Write a network's weights to a plain .npz, which NumPy reads without pickle.

    Arrays have names such as params/Logits/kernel and batch_stats/...; model.json in it is
    text, the card of a model (network, classes, preprocessing), and so is run.json, the
    record of the run with step and weights. weights export has other formats.

    Args:
        run: folder of a run.
        out: file to write, whole or not at all; must not be there yet.
        weights: as trained, or their running averages.
        step: of the checkpoint; default: the newest good one.
    """
    check_output_path("npz", out)
    record = asdict(read_record(run))
    card, arrays = read_run(run, weights, step)
    about = {**record, "step": card.origin.step, "weights": weights}
    write_npz(out, card, arrays, {"run.json": json.dumps(about, default=str)})
    count, step = sum(x.size for x in arrays.values()), card.origin.step
    print(f"Wrote {count:,} numbers in {len(arrays):,} arrays, of step {step}, to {out}.")


def _of_another_kind(a: Arrays, b: Arrays) -> list[str]:
    kinds = [{name: (x.dtype, x.shape) for name, x in side.items()} for side in (a, b)]
    return [n for n in kinds[0] | kinds[1] if kinds[0].get(n) != kinds[1].get(n)]


def _differences(a: Arrays, b: Arrays) -> Iterator[tuple[str, ...]]:
    """A line for each group of leaves, such as params, in which some differ."""
    other = set(_of_another_kind(a, b))
    groups: dict[str, list[str]] = {}
    for name in a | b:
        groups.setdefault(name.split("/")[0], []).append(name)
    for group, names in groups.items():
        differ = [n for n in names if n in other or a[n].tobytes() != b[n].tobytes()]
        if not differ:
            continue
        largest = [_largest(a[n], b[n]) for n in differ if n not in other]
        figures = [f"{max(x):.3g}" for x in zip(*largest, strict=True)] or ["-", "-"]
        yield group, f"{len(names):,}", f"{len(differ):,}", *figures


def _largest(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Largest difference of two numbers of the same place, absolute and relative.

    Infinite where one is not finite and the other is something else.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        apart = np.where(same, 0.0, np.abs(x - y))
        relative = apart / np.where(same, 1.0, np.maximum(np.abs(x), np.abs(y)))
    apart, relative = (np.where(np.isnan(z), np.inf, z) for z in (apart, relative))
    return float(apart.max()), float(relative.max())


def checkpoints(
    command: Annotated[
        Annotated[None, tyro.conf.subcommand("ls", constructor=list_checkpoints)]
        | Annotated[None, tyro.conf.subcommand("verify", constructor=verify_checkpoints)]
        | Annotated[None, tyro.conf.subcommand("diff", constructor=diff_checkpoints)]
        | Annotated[None, tyro.conf.subcommand("export", constructor=export_weights)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Checkpoints of a run: list, verify, compare, export.

    Args:
        command: what to do.
    """
