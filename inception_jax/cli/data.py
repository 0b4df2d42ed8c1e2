# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax data check` and `inception-jax data bench`."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Literal

import numpy as np
import tyro

from inception_jax.cli.arguments import option
from inception_jax.data import bench
from inception_jax.data.check import check
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.storage.files import append_json_line
from inception_jax.text import table

SOURCE_HELP = (
    "Name of a TFDS data set such as imagenet2012 or cifar10, folder:DIR, digits or "
    "synthetic."
)
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=SOURCE_HELP)]
DataDir = Annotated[
    str | None,
    option("DIR", "$TFDS_DATA_DIR or ~/tensorflow_datasets", "Folder of TFDS data sets."),
]


def check_data(
    name: Name,
    /,
    data_dir: DataDir = None,
    read: int | Literal["all"] = 16,
    md5: bool = False,
) -> None:
    """Check whether a data set is ready for training; if not, print what to do next.

    Example: inception-jax data check imagenet2012

    Nothing is downloaded. Exit status: 0 if ready, 1 if not, 2 if NAME is invalid.

    Args:
        read: Read this many randomly chosen images from each split, or all.
        md5: Also verify the checksums of the ImageNet archives; this takes minutes.
    """
    progress = _print_progress if sys.stderr.isatty() else None
    report = check(name, data_dir, read=read, md5=md5, progress=progress)
    print(report)
    if not report.ready:
        raise SystemExit(1)


def _print_progress(done: int, total: int) -> None:
    end = "\r" if done < total else "\r\033[K"
    print(f"{done / total:7.1%} read", end=end, file=sys.stderr, flush=True)


def bench_data(
    name: Name = "synthetic",
    /,
    data_dir: DataDir = None,
    need: Annotated[float | None, option("FLOAT", "not compared")] = None,
    rounds: int = 5,
    images: int = 512,
    jsonl: Annotated[Path | None, option("FILE", "not written")] = None,
) -> None:
    """Measure how many training images per second this host can prepare.

    Example: inception-jax data bench imagenet2012 --need 3000

    The pipeline decodes, crops, resizes and flips files in memory, on one core and on all
    cores. If TensorFlow is installed, its tf.data pipeline is measured too, alternating
    with ours.

    Args:
        need: Compare the result with this number of images per second.
        rounds: Number of measurements of each pipeline; the median is printed.
        images: Number of images per measurement.
        jsonl: Append every measurement to this file as a line of JSON.
    """
    if need is not None and need <= 0:
        raise ValueError(f"need must be above 0 images/s, got {need:g}.")
    source = bench.sample_in_memory(open_source(name, "train", data_dir))
    settings = bench.available_settings(source)
    print(_description(source, rounds, images), flush=True)
    results = bench.measure(source, settings, rounds=rounds, images=images)
    print(f"\n{_table_of_rates(results)}\n")
    _print_ratios(results)
    if problem := bench.tensorflow_problem(source):
        print(f"tf.data was NOT measured: {problem}")
    if need is not None:
        print(_comparison_with(need, results))
    if jsonl is not None:
        for result in results:
            setting = {"data": name, **asdict(result.setting)}
            for index, measured in enumerate(result.rounds):
                append_json_line(jsonl, {**setting, "round": index, **measured._asdict()})


def _description(source: Source, rounds: int, images: int) -> str:
    sizes = [np.asarray(example["image"]).nbytes for example in source.examples]
    return (
        f"{source.name}: {len(sizes)} files of {mean(sizes) / 1000:.0f} kB on average, in "
        f"memory; medians of {rounds} rounds of {images} images.\n"
        "ours: random crop, bilinear, flip, uint8; the device adjusts colours.\n"
        "tf.data like Flax: the same crops, bicubic, flip, float32, as in Flax's\n"
        "imagenet example. tf.data like ours: the same crops, bilinear, flip, uint8."
    )


def _table_of_rates(results: Sequence[bench.Result]) -> str:
    header = (
        *("pipeline", "cores", "workers", "images/s, median", "lowest", "highest"),
        "images per CPU second",
    )
    lines = []
    for result in results:
        setting, rates, per_core = result.setting, result.rates, result.rates_per_core
        workers = f"{setting.processes} processes" if setting.processes else "threads"
        cells = [f"{rate:,.0f}" for rate in (median(rates), min(rates), max(rates))]
        cells.append(f"{median(per_core):,.0f}" if per_core else "-")
        lines.append((setting.pipeline, str(len(setting.cores)), workers, *cells))
    return table(header, lines, right=(1, 3, 4, 5, 6))


def _print_ratios(results: Sequence[bench.Result]) -> None:
    """Compare each pipeline with ours, round by round, on the fewest cores measured."""
    rates: dict[str, list[float]] = {}
    for result in results:
        rates.setdefault(result.setting.pipeline, result.rates_per_core)
    ours = rates.pop("ours")
    for name, theirs in rates.items():
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(
            f"per CPU second, ours delivers {median(ratios):.2f} times as many images as "
            f"{name} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _comparison_with(need: float, results: Sequence[bench.Result]) -> str:
    ours = [result for result in results if result.setting.pipeline == "ours"]
    best = max(median(result.rates) for result in ours)
    cores = math.ceil(need / median(ours[0].rates_per_core))
    verdict = "enough" if best >= need else f"TOO FEW, {best / need:.0%}"
    return (
        f"needed {need:,.0f} images/s, measured {best:,.0f}: {verdict}; {cores} cores of "
        "this kind are needed"
    )
