# SPDX-License-Identifier: Apache-2.0
"""The check of a TFDS data set: what is prepared, what is missing, and how to prepare it.

TFDS 4.9.10 reads without TensorFlow, but its builders cannot write without it: even to copy
JPEG files they use `tf.io.gfile`. Its command `tfds build` also needs apache_beam, so we
suggest `python -c` instead.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from inception_jax.data.check_imagenet import check_archives
from inception_jax.data.check_report import Facts, Progress, Report, disk_space
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES, NUM_VALIDATION_IMAGES
from inception_jax.data.optional import require
from inception_jax.data.tfds import not_found_message
from inception_jax.text import format_bytes

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

IMAGENET_IMAGES = {"train": NUM_TRAIN_IMAGES, "validation": NUM_VALIDATION_IMAGES}


def check_tfds_dataset(
    name: str, data_dir: str | None, *, md5: bool = False, progress: Progress | None = None
) -> Report:
    """Check whether a data set is prepared in a format that needs no TensorFlow.

    `name` is in TFDS's notation, NAME[/CONFIG][:VERSION]; see `check` for the other
    arguments. Raises ValueError if TFDS has no such data set or data_dir is not local, and
    ImportError without the `data` extra.
    """
    tfds = require("tensorflow_datasets")
    if data_dir and "://" in data_dir:
        raise ValueError(f"data_dir must be a local folder, got {data_dir!r}.")
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    # ValueError: TFDS cannot parse the name.
    except (tfds.core.DatasetNotFoundError, ValueError):
        return _report_unprepared(name, data_dir, md5, progress)
    file_format = builder.info.file_format.value
    facts = [("prepared", f"yes, {Path(builder.data_dir)}"), ("format", file_format)]
    if file_format != "array_record":
        facts[-1] = ("format", f"{file_format}, which needs TensorFlow to read")
        return Report(name, False, facts, _prepare_again(name, builder, file_format))
    split_facts, complete = _check_files(builder)
    next_steps = [] if complete else _prepare_again(name, builder, "incomplete")
    return Report(name, complete, facts + split_facts, next_steps)


def _check_files(builder: "DatasetBuilder") -> tuple[Facts, bool]:
    """Return the numbers of images and files by split, and whether no file is missing."""
    facts, complete = [], True
    for split, info in builder.info.splits.items():
        files = [Path(file) for file in info.filepaths]
        existing = [file for file in files if file.exists()]
        missing = len(files) - len(existing)
        complete = complete and not missing
        fact = f"{info.num_examples:,} images"
        if builder.name == "imagenet2012":
            expected = IMAGENET_IMAGES.get(split, info.num_examples)
            if info.num_examples != expected:
                fact += f" instead of {expected:,}"
        fact += f"; files: {len(files):,}"
        if missing:
            fact += f", {missing:,} MISSING"
        size = sum(file.stat().st_size for file in existing)
        facts.append((split, f"{fact}, {format_bytes(size)}"))
    return facts, complete


def _code_builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    """Return TFDS's builder of a data set; raises ValueError with a one-line message."""
    tfds = require("tensorflow_datasets")
    # TFDS reads the sizes of downloads with this undeclared dependency.
    require("importlib_resources")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # TFDS prints long advice about TensorFlow before it raises.
        with contextlib.redirect_stdout(io.StringIO()):
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(not_found_message(name, data_dir)) from None
    # TFDS raises AssertionError for an unknown version; its messages have many lines.
    except (ValueError, AssertionError, RuntimeError, ImportError) as e:
        first_line = str(e).strip().splitlines()[0]
        raise ValueError(f"TFDS cannot open {name!r}: {first_line}") from None


def _report_unprepared(
    name: str, data_dir: str | None, md5: bool, progress: Progress | None
) -> Report:
    builder = _code_builder(name, data_dir)
    folder = Path(builder.data_dir)
    root = folder.parents[builder.info.full_name.count("/")]
    facts = [("prepared", f"no, {folder} does not exist")]
    for path in sorted(folder.parent.glob("incomplete.*")):
        facts.append(("", f"{path.name}: left by an interrupted preparation, remove it"))
    manual = root / "downloads" / "manual"
    if builder.name == "imagenet2012":
        more_facts, next_steps = check_archives(root, manual, md5=md5, progress=progress)
    else:
        more_facts, next_steps = _describe_download(builder, manual)
        more_facts += disk_space(root)
    next_steps += _preparation(name, root)
    return Report(name, False, facts + more_facts, next_steps)


def _describe_download(builder: "DatasetBuilder", manual: Path) -> tuple[Facts, list[str]]:
    """Return facts about what TFDS downloads, and commands for what it cannot download."""
    facts, next_steps = [], []
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        facts.append(("manual", instructions))
        mkdir = shlex.join(["mkdir", "-p", str(manual)])
        next_steps = [mkdir, "# put the files into this folder, then:"]
    sizes = sorted(info.size for info in (builder.url_infos or {}).values())
    if sizes and builder.builder_config:  # TFDS does not say which file belongs to which
        smallest, largest = format_bytes(sizes[0]), format_bytes(sizes[-1])
        size = f"from {smallest} to {largest}, depending on the configuration"
        facts.append(("download", size))
    elif sizes:
        facts.append(("download", format_bytes(sum(sizes))))
    return facts, next_steps


def _preparation(name: str, root: Path) -> list[str]:
    """Return the shell commands that prepare a data set in a folder of TFDS."""
    args = f"{json.dumps(name)}, data_dir={json.dumps(str(root))}"
    program = (
        f"import tensorflow_datasets as tfds; tfds.builder({args}, "
        'file_format="array_record").download_and_prepare()'
    )
    if importlib.util.find_spec("tensorflow"):
        return [shlex.join(["python", "-c", program])]
    return [
        "# TFDS needs TensorFlow for writing; use a separate environment:",
        "python -m venv tfds_env",
        "tfds_env/bin/pip install tensorflow tensorflow-datasets importlib_resources",
        shlex.join(["tfds_env/bin/python", "-c", program]),
    ]


def _prepare_again(name: str, builder: "DatasetBuilder", suffix: str) -> list[str]:
    """Return commands that rename the prepared folder by a suffix and prepare a new one."""
    folder = Path(builder.data_dir)
    root = folder.parents[builder.info.full_name.count("/")]
    rename = shlex.join(["mv", str(folder), f"{folder}.{suffix}"])
    return [rename, *_preparation(name, root)]
