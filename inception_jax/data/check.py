# SPDX-License-Identifier: Apache-2.0
"""The check of whether a data set is ready for training.

Nothing is downloaded, and only `digits` is prepared, which takes a second.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from inception_jax.data.check_report import Facts, Progress, Report
from inception_jax.data.check_tfds import check_tfds_dataset
from inception_jax.data.decoding import decode
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source
from inception_jax.text import first_few

MAX_LISTED = 20  # error messages of unreadable images that are shown


def check(
    name: str,
    data_dir: str | None = None,
    *,
    read: int | Literal["all"] = 16,
    md5: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check the files and splits of a data set, and whether its images are readable.

    Args:
      name, data_dir: see `open_source`.
      read: number of randomly chosen images to read in each split.
      md5: verify the archives of `imagenet2012` if it is not prepared yet; takes minutes.
      progress: called repeatedly while images or archives are read.

    Raises ValueError if the name is unknown or the folder does not exist, and ImportError
    without the `data` extra.
    """
    if read != "all" and read < 0:
        raise ValueError(f"read must be 0 or more images, or all, got {read}.")
    kind, _, folder = name.partition(":")
    facts: Facts = []
    if kind == "folder":
        # A missing folder is an error; problems inside the folder belong in the report.
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"folder {folder!r} does not exist; expected folder:DIR.")
    elif kind in ("digits", "synthetic"):
        open_source(name, "train", data_dir)  # raises ValueError if the name is invalid
    else:
        report = check_tfds_dataset(name, data_dir, md5=md5, progress=progress)
        if not report.ready:
            return report
        facts += report.facts
    return _check_images(name, data_dir, read, progress, facts)


def _check_images(
    name: str,
    data_dir: str | None,
    read: int | Literal["all"],
    progress: Progress | None,
    facts: Facts,
) -> Report:
    """Open both splits and read images of each; the report begins with `facts`."""
    ready, next_steps = True, []
    for split in ("train", "eval"):
        try:
            source = open_source(name, split, data_dir)
        except ValueError as e:
            ready = False
            facts.append((split, f"PROBLEM: {e}"))
            continue
        if "classes" not in dict(facts):
            names = source.class_names
            facts.append(("classes", f"{len(names):,}: {first_few(names)}"))
        total = len(source)
        count = total if read == "all" else min(read, total)
        errors = list(_read_errors(source, count, progress))
        state = "all readable"
        if errors:
            ready = False
            next_steps = ["# repair or remove them, or train with --on-bad-image skip"]
            state = f"{len(errors):,} UNREADABLE"
        facts.append((split, f"{total:,} images; {count:,} read, {state}"))
        distinct = list(dict.fromkeys(errors))  # one for all images of a damaged shard
        facts += [("", error) for error in distinct[:MAX_LISTED]]
        if len(distinct) > MAX_LISTED:
            facts.append(("", f"and {len(distinct) - MAX_LISTED:,} more"))
    return Report(name, ready, facts, next_steps)


def _read_errors(source: Source, count: int, progress: Progress | None) -> Iterator[str]:
    """Read `count` randomly chosen images; yield the messages of those that fail."""
    chosen = np.random.default_rng(0).permutation(len(source))[:count]

    def read(index: int) -> str | None:
        try:
            example = source.examples[index]
            if isinstance(example["image"], bytes):
                decode(example["image"], example["name"], channels=3)
        # Readers of damaged files raise exceptions of many types.
        except Exception as e:
            return str(e) or type(e).__name__
        return None

    with ThreadPoolExecutor() as threads:
        for start in range(0, count, 1000):
            chunk = sorted(chosen[start : start + 1000].tolist())
            yield from filter(None, threads.map(read, chunk))
            if progress:
                progress(start + len(chunk), count)
