# SPDX-License-Identifier: Apache-2.0
"""Whether a data set is ready to train on, and if not, what to do next.

Nothing is downloaded, and nothing prepared but `digits`, which takes a second.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from inception_jax.data.check_imagenet import Progress
from inception_jax.data.check_report import Report
from inception_jax.data.check_tfds import check_tfds_dataset
from inception_jax.data.decoding import decode
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source

MAX_LISTED = 20  # images that cannot be read


def check(
    name: str,
    data_dir: str | None = None,
    *,
    read: int | Literal["all"] = 16,
    md5: bool = False,
    progress: Progress | None = None,
) -> Report:
    """What is there of a data set: files, splits, and whether its images can be read.

    Args:
      name, data_dir: see `open_source`.
      read: how many images of each split are read, chosen at random.
      md5: verify the archives of `imagenet2012` while they are needed; takes minutes.
      progress: is told how much has been read, and of how much.

    Raises ValueError on a name that means nothing or a folder that is not there,
    ImportError without the `data` extra.
    """
    if read != "all" and read < 0:
        raise ValueError(f"read must be 0 or more images, or all, got {read}.")
    kind, _, folder = name.partition(":")
    if kind == "folder":
        # What is wrong inside of it is what the report is about; this is not.
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"there is no folder {folder!r}; expected folder:DIR.")
    elif kind in ("digits", "synthetic"):
        open_source(name, "train", data_dir)
    else:
        report = check_tfds_dataset(name, data_dir, md5=md5, progress=progress)
        if not report.ready:
            return report
        return _look_inside(name, data_dir, read, progress, list(report.facts))
    return _look_inside(name, data_dir, read, progress, [])


def _look_inside(
    name: str,
    data_dir: str | None,
    read: int | Literal["all"],
    progress: Progress | None,
    facts: list[tuple[str, str]],
) -> Report:
    ready, classes, todo = True, (), ()
    for split in ("train", "eval"):
        try:
            source = open_source(name, split, data_dir)
        except ValueError as e:
            ready = False
            facts.append((split, f"PROBLEM: {e}"))
            continue
        if not classes:
            classes = source.class_names
            facts.append(("classes", f"{len(classes):,}: {_few(classes)}"))
        total = len(source)
        count = total if read == "all" else min(read, total)
        faults = list(_faults(source, count, progress))
        if faults:
            ready, todo = False, ("# mend or remove them, or add --on-bad-image skip",)
        state = f"{len(faults):,} UNREADABLE" if faults else "all good"
        facts.append((split, f"{total:,} images; {count:,} read, {state}"))
        different = list(dict.fromkeys(faults))  # a torn file has one for all its images
        facts += [("", fault) for fault in different[:MAX_LISTED]]
        if len(different) > MAX_LISTED:
            facts.append(("", f"and {len(different) - MAX_LISTED:,} more"))
    return Report(name, ready, facts, todo)


def _faults(source: Source, count: int, progress: Progress | None) -> Iterator[str]:
    """What is wrong with the bad ones of `count` images, chosen at random."""
    chosen = np.random.default_rng(0).permutation(len(source))[:count]

    def fault(index: int) -> str | None:
        try:
            example = source.examples[index]
            if isinstance(example["image"], bytes):
                decode(example["image"], example["name"], channels=3)
        # Whatever a reader of files raises is about this file.
        except Exception as e:
            return str(e) or type(e).__name__
        return None

    with ThreadPoolExecutor() as threads:
        for start in range(0, count, 1000):
            some = sorted(chosen[start : start + 1000].tolist())
            yield from filter(None, threads.map(fault, some))
            if progress:
                progress(start + len(some), count)


def _few(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
