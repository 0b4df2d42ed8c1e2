# SPDX-License-Identifier: Apache-2.0
"""Images as a command line names them: files, folders, patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from inception_jax.data.folder import IMAGE_EXTENSIONS, find_images, has_image_extension


def expand_image_paths(names: Sequence[str]) -> list[str]:
    """Paths of the images that `names` stand for, each once, in the order of the names.

    A folder stands for all images at any depth below it, by path; a pattern, such as
    `photos/**/*.jpg`, for the images and folders that match. What is hidden or has none of
    `IMAGE_EXTENSIONS` is passed over there; a file that is named itself is taken whatever
    its ending. Links are followed. No image is opened.

    Raises ValueError, naming it, on a name that stands for no image.
    """
    if not names:
        raise ValueError(
            "no image is named; expected files, folders or patterns such as 'photos/*.jpg'."
        )
    paths = (path for name in names for path in _stands_for(name))
    return list(dict.fromkeys(str(path) for path in paths))


def _stands_for(name: str) -> list[Path]:
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        found, others = _below(path)
        if not found:
            raise ValueError(
                f"{name!r} holds no image; {others} other files there have none of the "
                f"endings {IMAGE_EXTENSIONS}."
            )
        return found
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(name):
        raise ValueError(f"{name!r} does not exist; expected an image or a folder of them.")
    found = []
    for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
        if os.path.isdir(match):
            found += _below(match)[0]
        elif has_image_extension(match.name):
            found.append(match)
    if not found:
        raise ValueError(
            f"no image matches {name!r}; endings that count are {IMAGE_EXTENSIONS}."
        )
    return found


def _below(folder: Path) -> tuple[list[Path], int]:
    """Images below a folder by path, and the number of other files."""
    found, others = find_images(folder, ".")
    return sorted(folder / path for path in found), others
