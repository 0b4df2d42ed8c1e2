# SPDX-License-Identifier: Apache-2.0
"""Images in folders that are named by their class; nothing has to be prepared."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from inception_jax.data.decoding import UnreadableImage
from inception_jax.data.source import Example, Source
from inception_jax.data.splits import parse_split, part_positions

# Small or large letters.
IMAGE_EXTENSIONS = (
    ".apng .avif .bmp .gif .jfif .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
)
EVAL_FOLDERS = (
    "val",
    "validation",
    "test",
)  # folders that `eval` may be; the first there is
HELD_OUT = 0.1  # share of the images that is `eval` where there is no such folder


def open_folder(directory: str, split: str) -> Source:
    """Examples of DIR/train/CLASS and DIR/val/CLASS, or of DIR/CLASS, at any depth below.

    Classes are the folders of `train` in the order of their names; examples go by class
    and path. `eval` is the first there is of DIR/val, DIR/validation and DIR/test, each of
    which can be named too. Without one, a hash of the path puts a tenth of the images into
    `eval`, the same ones whatever is added, but leaves each class some to train on. The
    same hash chooses what is in a part of a split, such as `train[:100]`.

    Links are followed. Hidden files and files without one of `IMAGE_EXTENSIONS` are
    ignored. No image is opened.

    Raises ValueError, naming the folder, on one that is missing, cannot be read or does
    not look like that; on fewer than two classes, and on one without training images.
    """
    root = Path(os.path.expanduser(directory))
    folders = _split_folders(root)
    evals = [name for name in EVAL_FOLDERS if name in folders]
    kind, part = parse_split(split, ("train", "eval", *evals))
    if kind == "eval" and evals:
        kind = evals[0]
    classes = _class_names(folders["train"])
    folder = folders.get(kind, folders["train"])
    paths, labels = _scan(folder, classes, needs_all=folder == folders["train"])
    chosen = np.arange(len(paths))
    if not evals:
        held_out = _held_out(paths, labels)
        chosen = np.flatnonzero(held_out if kind == "eval" else ~held_out)
    if not len(chosen):
        raise ValueError(
            f"{str(root)!r} has too few images, {len(paths)}, to hold some out by chance; "
            f"expected a folder {str(root / EVAL_FOLDERS[0])!r}."
        )
    if part is not None:
        by_hash = sorted(chosen, key=lambda i: _hash(paths[i]))
        chosen = np.sort(np.array(by_hash)[part_positions(len(chosen), part)])
    examples = FolderExamples(folder, [paths[i] for i in chosen], labels[chosen])
    return Source(f"folder:{directory}", split, classes, examples)


class FolderExamples(Sequence[Example]):
    """Image files, read when they are asked for and named by their path.

    A million paths are kept as one string of bytes: every worker process gets a copy.
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], labels: Int32[np.ndarray, " n"]
    ) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._folder = folder
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """Raises UnreadableImage if the file cannot be read."""
        index = range(len(self))[index]
        path = os.fsdecode(self._paths[self._ends[index] : self._ends[index + 1]])
        try:
            data = (self._folder / path).read_bytes()
        except OSError as e:
            file = str(self._folder / path)
            raise UnreadableImage(f"{file!r} cannot be read: {e.strerror}.") from e
        return {"image": data, "label": int(self._labels[index]), "name": path}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; only `train` where DIR holds the classes themselves."""
    if not os.path.isdir(root):
        fault = "is no folder" if os.path.exists(root) else "does not exist"
        raise ValueError(f"{str(root)!r} {fault}; expected a folder of images.")
    known = {"train", *EVAL_FOLDERS}
    there = _class_folders(root)
    if "train" in there and _class_folders(root / "train"):
        return {name: root / name for name in there if name in known}
    if there and known.issuperset(there):
        raise ValueError(
            f"{str(root)!r} holds {', '.join(there)} but no folders of classes in train; "
            f"expected {str(root / 'train' / 'CLASS')!r}."
        )
    return {"train": root}


def _class_names(train: Path) -> tuple[str, ...]:
    classes = _class_folders(train)
    if len(classes) < 2:
        there = f"only one folder, {classes[0]!r}" if classes else "no folders"
        raise ValueError(
            f"{str(train)!r} holds {there}; expected one for each of two or more classes."
        )
    return tuple(classes)


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders inside, sorted."""
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def _scan(
    folder: Path, classes: Sequence[str], *, needs_all: bool
) -> tuple[list[str], Int32[np.ndarray, " n"]]:
    """Paths below `folder` of all images, and the positions of their classes."""
    found, others = {}, 0
    for name in _class_folders(folder):
        paths, passed_over = find_images(folder, name)
        found[name] = sorted(paths)
        others += passed_over
    if not any(found.values()):
        raise ValueError(
            f"{str(folder)!r} holds no image in a folder of its class; {others} other "
            f"files there have none of the endings {IMAGE_EXTENSIONS}."
        )
    unknown = [name for name, paths in found.items() if paths and name not in classes]
    if unknown:
        raise ValueError(f"{str(folder)!r} holds {_few(unknown)}, which train does not.")
    empty = [name for name in classes if not found.get(name)]
    if needs_all and empty:
        raise ValueError(
            f"{str(folder)!r} holds no image of {_few(empty)}; add some or remove the "
            "folder."
        )
    counts = [len(found.get(name, [])) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return [path for name in classes for path in found.get(name, [])], labels


def find_images(folder: Path, name: str) -> tuple[list[str], int]:
    """Paths from `folder` of all images below `name`, in no order, and the number of
    other files. Raises ValueError, naming the folder, on one that cannot be read."""
    images, others = [], 0
    seen, pending = set(), [name]
    while pending:
        below = pending.pop()
        identity = os.stat(folder / below)
        # Through links one folder can be reached again and again.
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for entry in _entries(folder / below):
            path = f"{below}/{entry.name}"
            if _is_folder(entry):
                pending.append(path)
            elif has_image_extension(entry.name) and entry.is_file():
                images.append(path)
            else:
                others += 1
    return images, others


def _entries(folder: Path) -> list[os.DirEntry]:
    """What is in a folder and not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as e:
        raise ValueError(f"{str(folder)!r} cannot be read: {e.strerror}.") from e
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    # Unlike the entry, os.path takes a link to itself for no folder; but it asks the disk.
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def has_image_extension(name: str) -> bool:
    """Whether a file's name ends as an image's, in small or large letters."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS.split()


def _held_out(
    paths: Sequence[str], labels: Int32[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    held_out = np.array([_hash(path) for path in paths]) < HELD_OUT * 2**64
    left = np.bincount(labels, weights=~held_out)
    return held_out & (left[labels] > 0)


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())


def _few(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
