# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax data check` and `inception-jax data bench`."""

import dataclasses
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from inception_jax.data import bench
from inception_jax.data.check import check
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.storage.jsonl import append_json_line
from inception_jax.text import table

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


def check_data(
    name: Name,
    /,
    data_dir: str | None = None,
    read: int | Literal["all"] = 16,
    md5: bool = False,
) -> None:
    """Is a data set ready to train on? If not: what is missing, and the next command.

    Exits with 0 if it is ready, 1 if not, 2 if NAME means nothing. Nothing is downloaded.

    Args:
        name: TFDS's imagenet2012, cifar10, ...; folder:DIR, digits or synthetic.
        data_dir: folder of TFDS; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        read: how many images of each split to read, chosen at random.
        md5: read ImageNet's archives and compare their checksums, in minutes.
    """
    progress = _show_progress if sys.stderr.isatty() else None
    report = check(name, data_dir, read=read, md5=md5, progress=progress)
    print(report)
    if not report.ready:
        raise SystemExit(1)


def _show_progress(done: int, total: int) -> None:
    end = "\r" if done < total else "\r\033[K"
    print(f"{done / total:7.1%} read", end=end, file=sys.stderr, flush=True)


def bench_data(
    name: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")
    ] = "synthetic",
    /,
    data_dir: str | None = None,
    need: float | None = None,
    rounds: int = 5,
    images: int = 512,
    jsonl: Path | None = None,
) -> None:
    """How many training images per second the host delivers, ours and TensorFlow's.

    Decoding, random box, resizing and flip of a few hundred files in memory, on one core
    and on all. TensorFlow's pipeline runs, in turn with ours, where it is installed.

    Args:
        name: as for data check; its training images.
        data_dir: folder of TFDS; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        need: images per second that a training step takes; is compared.
        rounds: measurements of each pipeline, of which the median is shown.
        images: in each measurement.
        jsonl: file to which every measurement is added.
    """
    if need is not None and need <= 0:
        raise ValueError(f"need must be above 0 images/s, got {need:g}.")
    source = bench.sample_in_memory(open_source(name, "train", data_dir))
    settings = bench.available_settings(source)
    print(_what_is_measured(source, rounds, images), flush=True)
    results = bench.measure(source, settings, rounds=rounds, images=images)
    print(f"\n{_rates(results)}\n")
    for line in _ratios(results):
        print(line)
    if fault := bench.tensorflow_problem(source):
        print(f"tf.data was NOT measured: {fault}")
    if need is not None:
        print(_against(need, results))
    if jsonl is not None:
        for line in _lines(name, results):
            append_json_line(jsonl, line)


def _what_is_measured(source: Source, rounds: int, images: int) -> str:
    sizes = [np.asarray(example["image"]).nbytes for example in source.examples]
    return (
        f"{source.name}: {len(sizes)} files of {statistics.mean(sizes) / 1000:.0f} kB on "
        f"average, in memory; medians of {rounds} rounds of {images} images.\n"
        "ours: random box, bilinear, flip, uint8; range and colour are the device's.\n"
        "tf.data like Flax: the same boxes, bicubic, flip, float32 in range, as in its\n"
        "imagenet example; like ours: the same, bilinear and uint8."
    )


def _rates(results: Sequence[bench.Result]) -> str:
    header = ("pipeline", "cores", "by", "images/s", "lowest", "highest", "per CPU second")
    lines = []
    for result in results:
        setting, rates, per_core = result.setting, result.rates, result.rates_per_core
        by = f"{setting.processes} processes" if setting.processes else "threads"
        figures = (statistics.median(rates), min(rates), max(rates))
        lines.append(
            (
                setting.pipeline,
                str(len(setting.cores)),
                by,
                *(f"{figure:,.0f}" for figure in figures),
                f"{statistics.median(per_core):,.0f}" if per_core else "-",
            )
        )
    return table(header, lines, right=(1, 3, 4, 5, 6))


def _ratios(results: Sequence[bench.Result]) -> Iterator[str]:
    """Ours against TensorFlow's, with the fewest cores, round by round."""
    first = {}
    for result in results:
        first.setdefault(result.setting.pipeline, result.rates_per_core)
    ours = first.pop("ours")
    for name, theirs in first.items():
        pairs = zip(ours, theirs, strict=True)
        ratios = sorted(a / b for a, b in pairs)
        yield (
            f"per CPU second ours does {statistics.median(ratios):.2f} times what {name} "
            f"does ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def _against(need: float, results: Sequence[bench.Result]) -> str:
    ours = [result for result in results if result.setting.pipeline == "ours"]
    best = max(statistics.median(result.rates) for result in ours)
    per_core = statistics.median(ours[0].rates_per_core)
    verdict = "enough" if best >= need else f"TOO FEW, {best / need:.0%}"
    return (
        f"needed {need:,.0f} images/s, here {best:,.0f}: {verdict}; "
        f"it takes {math.ceil(need / per_core)} cores like these"
    )


def _lines(name: str, results: Sequence[bench.Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        for index, measured in enumerate(result.rounds):
            setting = {"data": name, **dataclasses.asdict(result.setting)}
            yield {**setting, "round": index, **measured._asdict()}


def data(
    command: Annotated[
        Annotated[None, tyro.conf.subcommand("check", constructor=check_data)]
        | Annotated[None, tyro.conf.subcommand("bench", constructor=bench_data)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Data sets: is one ready, and how fast are its images read.

    Args:
        command: what to do.
    """
