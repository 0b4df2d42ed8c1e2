# SPDX-License-Identifier: Apache-2.0
"""What is there of a TFDS data set, what is missing, and the commands that prepare it.

TFDS 4.9.10 reads without TensorFlow, but its own builders do not write without it: even
to copy JPEG files they go through `tf.io.gfile`. Its command `tfds build` needs
apache_beam as well, hence `python -c`.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from inception_jax.data.check_imagenet import (
    ARCHIVES,
    DOWNLOAD_PAGE,
    Progress,
    archive_problem,
    required_space,
)
from inception_jax.data.check_report import Report
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES, NUM_VALIDATION_IMAGES
from inception_jax.data.optional import require
from inception_jax.data.tfds import not_found_message
from inception_jax.text import format_bytes

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

IMAGES = {"train": NUM_TRAIN_IMAGES, "validation": NUM_VALIDATION_IMAGES}

Facts = list[tuple[str, str]]


def check_tfds_dataset(
    name: str, data_dir: str | None, *, md5: bool = False, progress: Progress | None = None
) -> Report:
    """Whether `name` is there in a format that is read without TensorFlow.

    Args:
      name: in TFDS's notation, NAME[/CONFIG][:VERSION].
      data_dir: TFDS's folder; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.
      md5: read the archives of `imagenet2012`, while they are needed, and verify them.
      progress: is told how far that has come.

    Raises ValueError where TFDS knows no such data set and on a data_dir in the cloud,
    ImportError without the `data` extra.
    """
    tfds = require("tensorflow_datasets")
    if data_dir and "://" in data_dir:
        raise ValueError(f"data_dir must be a folder of this machine, got {data_dir!r}.")
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    # ValueError: of a name that TFDS cannot take apart.
    except (tfds.core.DatasetNotFoundError, ValueError):
        return _to_come(name, data_dir, md5, progress)
    folder = Path(builder.data_dir)
    file_format = builder.info.file_format.value
    facts = [("prepared", f"yes, {folder}"), ("format", file_format)]
    if file_format != "array_record":
        facts[-1] = ("format", f"{file_format}, which only TensorFlow reads")
        return Report(name, False, facts, _anew(name, builder, file_format))
    files, complete = _files(builder)
    todo = () if complete else _anew(name, builder, "torn")
    return Report(name, complete, facts + files, todo)


def _files(builder: "DatasetBuilder") -> tuple[Facts, bool]:
    """Images and files of every split, and whether all files are there."""
    facts, complete = [], True
    for split, info in builder.info.splits.items():
        there = [Path(file) for file in info.filepaths if Path(file).exists()]
        missing = len(info.filepaths) - len(there)
        complete = complete and not missing
        count = f"{info.num_examples:,} images"
        full = IMAGES.get(split, 0) if builder.name == "imagenet2012" else 0
        if full and info.num_examples != full:
            count += f" instead of {full:,}"
        lost = f", {missing:,} MISSING" if missing else ""
        size = format_bytes(sum(file.stat().st_size for file in there))
        facts.append((split, f"{count}; files: {len(info.filepaths):,}{lost}, {size}"))
    return facts, complete


def _builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    """TFDS's code for a data set; raises ValueError with one sentence if there is none."""
    tfds = require("tensorflow_datasets")
    # TFDS needs it for the sizes of downloads and does not ask pip for it.
    require("importlib_resources")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # Where it misses TensorFlow, it says so at length before it raises.
        with contextlib.redirect_stdout(io.StringIO()):
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(not_found_message(name, data_dir)) from None
    # A version that TFDS does not have is an AssertionError; messages are of many lines.
    except (ValueError, AssertionError, RuntimeError, ImportError) as e:
        words = str(e).strip().splitlines()[0]
        raise ValueError(f"TFDS refuses {name!r}: {words}") from None


def _to_come(
    name: str, data_dir: str | None, md5: bool, progress: Progress | None
) -> Report:
    builder = _builder(name, data_dir)
    folder = Path(builder.data_dir)
    facts = [("prepared", f"no, {folder} is not there"), *_leftovers(folder)]
    if builder.name == "imagenet2012":
        return _imagenet_to_come(name, builder, facts, md5, progress)
    return _others_to_come(name, builder, facts)


def _leftovers(folder: Path) -> Facts:
    names = sorted(path.name for path in folder.parent.glob("incomplete.*"))
    return [("", f"{name}: left of an interrupted run, remove it") for name in names]


def _imagenet_to_come(
    name: str,
    builder: "DatasetBuilder",
    facts: Facts,
    md5: bool,
    progress: Progress | None,
) -> Report:
    root = _root(builder)
    manual = root / "downloads" / "manual"
    faults = [archive_problem(manual, a, md5=md5, progress=progress) for a in ARCHIVES]
    good = "MD5 right" if md5 else "size right"
    facts.append(("archives", str(manual)))
    for archive, fault in zip(ARCHIVES, faults, strict=True):
        facts.append(("", f"{archive.file}: {fault or f'{good}, {archive.size:,} bytes'}"))
    to_come = [a for a, fault in zip(ARCHIVES, faults, strict=True) if fault]
    facts += _disk(root, *required_space(sum(archive.size for archive in to_come)))
    todo = []
    if to_come:
        files = " and ".join(archive.file for archive in to_come)
        todo = [shlex.join(["mkdir", "-p", str(manual)])]
        todo += [f"# put {files} there, from {DOWNLOAD_PAGE}, then:"]
    return Report(name, False, facts, todo + _preparation(name, builder))


def _others_to_come(name: str, builder: "DatasetBuilder", facts: Facts) -> Report:
    root, todo = _root(builder), []
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        manual = root / "downloads" / "manual"
        facts.append(("by hand", " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())))
        todo = [shlex.join(["mkdir", "-p", str(manual)]), "# put the files there, then:"]
    sizes = sorted(info.size for info in (builder.url_infos or {}).values())
    if sizes and builder.builder_config:  # TFDS does not say which file is which
        downloads = (
            f"from {format_bytes(sizes[0])} to {format_bytes(sizes[-1])}, by configuration"
        )
        facts.append(("download", downloads))
    elif sizes:
        facts.append(("download", format_bytes(sum(sizes))))
    return Report(name, False, facts + _disk(root), todo + _preparation(name, builder))


def _root(builder: "DatasetBuilder") -> Path:
    return Path(builder.data_dir).parents[builder.info.full_name.count("/")]


def _disk(root: Path, needed: int = 0, reason: str = "") -> Facts:
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free
    facts = [("free disk", format_bytes(free))]
    if needed:
        short = f", {format_bytes(needed - free)} TOO LITTLE" if needed > free else ""
        facts = [("free disk", f"{format_bytes(free)}{short}")]
        facts.append(("needed", f"{format_bytes(needed)}: {reason}"))
    return facts


def _preparation(name: str, builder: "DatasetBuilder") -> list[str]:
    """Shell commands; run for `imagenet2012` on small archives of the same make."""
    args = f"{json.dumps(name)}, data_dir={json.dumps(str(_root(builder)))}"
    program = (
        f"import tensorflow_datasets as tfds; tfds.builder({args}, "
        'file_format="array_record").download_and_prepare()'
    )
    if importlib.util.find_spec("tensorflow"):
        return [shlex.join(["python", "-c", program])]
    return [
        "# TFDS writes with TensorFlow; in an environment of its own:",
        "python -m venv tfds_env",
        "tfds_env/bin/pip install tensorflow tensorflow-datasets importlib_resources",
        shlex.join(["tfds_env/bin/python", "-c", program]),
    ]


def _anew(name: str, builder: "DatasetBuilder", word: str) -> list[str]:
    """Commands that put aside what is there, under a name with `word`, and prepare."""
    aside = f"{builder.data_dir}.{word}"
    return [shlex.join(["mv", builder.data_dir, aside]), *_preparation(name, builder)]
