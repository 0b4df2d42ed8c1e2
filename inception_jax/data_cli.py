# SPDX-License-Identifier: Apache-2.0
"""The commands `inception-jax data check` and `inception-jax data bench`."""

import sys
from typing import Annotated, Literal

import tyro

from inception_jax.data.check import check


def check_data(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
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


def _bench(name: str = "synthetic") -> None:
    """Bench

    Args:
        name: x
    """


def data(
    command: Annotated[
        Annotated[None, tyro.conf.subcommand("check", constructor=check_data)]
        | Annotated[None, tyro.conf.subcommand("bench", constructor=_bench)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Data sets: is one ready, and how fast are its images read.

    Args:
        command: what to do.
    """
