# SPDX-License-Identifier: Apache-2.0
"""Search for image files: in folders, and by the names on a command line."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

# In lower or upper case.
EXTENSIONS = ".apng .avif .bmp .gif .jfif .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"


def expand_image_paths(names: Sequence[str]) -> list[str]:
    """Return the paths of the images that names stand for, in order and without repetition.

    A folder stands for all images below it, sorted by path. A pattern, such as
    `photos/**/*.jpg`, stands for the images and folders that match it. Both ignore hidden
    files and files without one of `EXTENSIONS`; the name of a file is accepted with
    any extension. Links are followed. No image is opened.

    Raises ValueError if a name stands for no image.
    """
    if not names:
        raise ValueError(
            "no images specified; expected files, folders or patterns such as "
            "'photos/*.jpg'."
        )
    paths = (path for name in names for path in _expand_name(name))
    return list(dict.fromkeys(str(path) for path in paths))


def find_images(folder: Path, subfolder: str) -> tuple[list[str], int]:
    """Return the paths of all images below a subfolder, and the number of other files.

    The paths are relative to `folder` and unsorted. Raises ValueError if a folder cannot be
    read.
    """
    images, num_others = [], 0
    seen, pending = set(), [subfolder]
    while pending:
        current = pending.pop()
        identity = os.stat(folder / current)
        # Links can lead to the same folder repeatedly.
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for entry in _visible_entries(folder / current):
            path = f"{current}/{entry.name}"
            if _is_folder(entry):
                pending.append(path)
            elif _has_image_extension(entry.name) and entry.is_file():
                images.append(path)
            else:
                num_others += 1
    return images, num_others


def list_subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the visible folders in a folder, including links."""
    return [entry.name for entry in _visible_entries(folder) if _is_folder(entry)]


def _visible_entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as e:
        raise ValueError(f"{str(folder)!r} cannot be read: {e.strerror}.") from e
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    # `DirEntry.is_dir` raises OSError for a link to itself. `os.path.isdir` returns False,
    # but it needs a system call for every entry.
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def _expand_name(name: str) -> list[Path]:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        images, num_others = _sorted_images(path)
        if not images:
            raise ValueError(
                f"{name!r} contains no images: none of its {num_others} files has "
                f"one of the extensions {EXTENSIONS}."
            )
        return images
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(name):
        raise ValueError(f"{name!r} does not exist; expected an image or a folder of them.")
    images = []
    for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
        if os.path.isdir(match):
            images += _sorted_images(match)[0]
        elif _has_image_extension(match.name):
            images.append(match)
    if not images:
        raise ValueError(
            f"no image matches {name!r}; supported extensions are {EXTENSIONS}."
        )
    return images


def _sorted_images(folder: Path) -> tuple[list[Path], int]:
    images, num_others = find_images(folder, ".")
    return sorted(folder / path for path in images), num_others


def _has_image_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS.split()
