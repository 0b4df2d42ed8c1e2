# SPDX-License-Identifier: Apache-2.0
"""The check of the archives from which TFDS prepares `imagenet2012`."""

import hashlib
import shlex
from pathlib import Path
from typing import NamedTuple

from inception_jax.data.check_report import Facts, Progress, disk_space
from inception_jax.text import format_bytes

DOWNLOAD_PAGE = "https://image-net.org/download-images"  # requires an account


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


def check_archives(
    root: Path, manual: Path, *, md5: bool = False, progress: Progress | None = None
) -> tuple[Facts, list[str]]:
    """Return facts about the archives in `manual`, and commands to complete them.

    `root` is the folder of TFDS. Only sizes are checked, unless `md5` is set: then the
    archives are read completely.
    """
    facts, missing = [("archives", str(manual))], []
    for archive in ARCHIVES:
        problem = _archive_problem(manual / archive.file, archive, md5, progress)
        if problem:
            missing.append(archive)
        state = problem or f"{'MD5' if md5 else 'size'} correct, {archive.size:,} bytes"
        facts.append(("", f"{archive.file}: {state}"))
    # The prepared copy holds the JPEG files of both archives unchanged, except for 23 that
    # TFDS re-encodes. TFDS shuffles through temporary files and removes each one before it
    # writes its images, so two copies never coexist (core/shuffle.py).
    copy = sum(archive.size for archive in ARCHIVES)
    to_download = sum(archive.size for archive in missing)
    breakdown = f"{format_bytes(copy)} for the prepared copy"
    if missing:
        breakdown = f"{format_bytes(to_download)} for the missing archives, {breakdown}"
    facts += disk_space(root, copy + to_download)
    facts.append(("needed", f"{format_bytes(copy + to_download)}: {breakdown}"))
    if not missing:
        return facts, []
    files = " and ".join(archive.file for archive in missing)
    download = f"# download {files} from {DOWNLOAD_PAGE} into this folder, then:"
    return facts, [shlex.join(["mkdir", "-p", str(manual)]), download]


def _archive_problem(
    path: Path, archive: Archive, md5: bool, progress: Progress | None
) -> str | None:
    if not path.is_file():
        return f"MISSING, {archive.size:,} bytes"
    size = path.stat().st_size
    if size != archive.size:
        return f"WRONG SIZE, {size:,} bytes instead of {archive.size:,}"
    checksum = _md5(path, size, progress) if md5 else archive.md5
    if checksum != archive.md5:
        return f"WRONG MD5, {checksum} instead of {archive.md5}"
    return None


def _md5(path: Path, size: int, progress: Progress | None) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, size)
    return digest.hexdigest()
