# SPDX-License-Identifier: Apache-2.0
"""The two archives from which TFDS prepares `imagenet2012`, and the room that takes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inception_jax.data.report import amount

WHERE = "https://image-net.org/download-images"  # hands them out to its users only

# Bytes read so far, and in all.
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
IMAGES = {"train": 1_281_167, "validation": 50_000}  # arXiv 1409.0575, Table 2


def archive_fault(
    folder: Path, archive: Archive, *, md5: bool = False, progress: Progress | None = None
) -> str | None:
    """What is wrong with an archive in `folder`, in a few words.

    With md5 it is read whole and its checksum compared, not only its size; `progress` is
    told how far that has come.
    """
    path = folder / archive.file
    if not path.is_file():
        return f"MISSING, {archive.size:,} bytes"
    size = path.stat().st_size
    if size != archive.size:
        return f"WRONG SIZE, {size:,} bytes instead of {archive.size:,}"
    if md5 and (found := _md5(path, size, progress)) != archive.md5:
        return f"WRONG MD5, {found} instead of {archive.md5}"
    return None


def room(archives_to_come: int) -> tuple[int, str]:
    """Bytes that `imagenet2012` still needs on the disk, and how they are made up.

    The prepared copy holds the JPEG files of both archives as they are, but for 23 that
    TFDS encodes anew. They are shuffled by way of temporary files, each of which is removed
    before its images are written: there are never two copies (TFDS, core/shuffle.py).
    """
    prepared = sum(archive.size for archive in ARCHIVES)
    total = archives_to_come + prepared
    reason = f"{amount(prepared)} for the copy, as much as the archives"
    if archives_to_come:
        reason = f"{amount(archives_to_come)} of archives to come, {reason}"
    return total, reason


def _md5(path: Path, size: int, progress: Progress | None) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, size)
    return digest.hexdigest()
