# SPDX-License-Identifier: Apache-2.0
"""The archives from which TFDS prepares `imagenet2012`, and the disk space it needs."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inception_jax.text import format_bytes

DOWNLOAD_PAGE = "https://image-net.org/download-images"  # requires an account

# Called with the number of bytes or images read so far and their total number.
Progress = Callable[[int, int], None]


class Archive(NamedTuple):
    """A file of ImageNet's 2012 challenge."""

    file: str
    size: int  # bytes; TFDS 4.9.10, datasets/imagenet2012/checksums.tsv
    md5: str  # torchvision, datasets/imagenet.py


ARCHIVES = (
    Archive(
        "ILSVRC2012_img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e"
    ),
    Archive("ILSVRC2012_img_val.tar", 6_744_924_160, "29b22e2961454d5413ddabcf34fc5622"),
)


def archive_problem(
    folder: Path, archive: Archive, *, md5: bool = False, progress: Progress | None = None
) -> str | None:
    """Return a short description of what is wrong with an archive in `folder`, or None.

    Only the size is checked, unless `md5` is set: then the whole file is read.
    """
    path = folder / archive.file
    if not path.is_file():
        return f"MISSING, {archive.size:,} bytes"
    size = path.stat().st_size
    if size != archive.size:
        return f"WRONG SIZE, {size:,} bytes instead of {archive.size:,}"
    if md5:
        checksum = _md5(path, size, progress)
        if checksum != archive.md5:
            return f"WRONG MD5, {checksum} instead of {archive.md5}"
    return None


def required_space(missing_archives: int) -> tuple[int, str]:
    """Return the disk space in bytes that `imagenet2012` still needs, and its breakdown.

    The prepared copy is as large as the archives: it holds their JPEG files unchanged,
    except for 23 that TFDS re-encodes. TFDS shuffles through temporary files and removes
    each one before it writes its images, so two copies never coexist (core/shuffle.py).
    """
    copy = sum(archive.size for archive in ARCHIVES)
    breakdown = f"{format_bytes(copy)} for the prepared copy"
    if missing_archives:
        missing = format_bytes(missing_archives)
        breakdown = f"{missing} for the missing archives, {breakdown}"
    return missing_archives + copy, breakdown


def _md5(path: Path, size: int, progress: Progress | None) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, size)
    return digest.hexdigest()
