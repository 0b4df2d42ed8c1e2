# SPDX-License-Identifier: Apache-2.0
"""Data sets that are folders of images, with one subfolder for each class."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from inception_jax.data.decoding import UnreadableImage
from inception_jax.data.image_paths import EXTENSIONS, find_images, list_subfolders
from inception_jax.data.source import Example, Source
from inception_jax.data.splits import parse_split, part_positions
from inception_jax.text import first_few

EVAL_FOLDERS = ("val", "validation", "test")  # `eval` is the first that exists
HELD_OUT = 0.1  # fraction of the images that is `eval` if there is no such folder


def open_folder(directory: str, split: str) -> Source:
    """Open a folder of images: DIR/train/CLASS and DIR/val/CLASS, or DIR/CLASS.

    The classes are the folders in `train`, sorted by name; the examples are sorted by class
    and path. `eval` is the first of DIR/val, DIR/validation and DIR/test that exists; each
    of these is also a split under its own name. If none exists, a tenth of the images is
    `eval`, chosen by a hash of the path, so that adding images does not move the others;
    each class keeps at least one training image. Parts of a split, such as `train[:100]`,
    are chosen by the same hash.

    Images may be at any depth below CLASS. Links are followed. Hidden files and files
    without one of `EXTENSIONS` are ignored. No image is opened.

    Raises ValueError if a folder is missing, unreadable or has another structure, if there
    are fewer than two classes, or if a class has no training images.
    """
    root = Path(os.path.expanduser(directory))
    folders = _split_folders(root)
    eval_folders = [name for name in EVAL_FOLDERS if name in folders]
    split_name, part = parse_split(split, ("train", "eval", *eval_folders))
    if split_name == "eval" and eval_folders:
        split_name = eval_folders[0]
    classes = _class_names(folders["train"])
    folder = folders.get(split_name, folders["train"])
    paths, labels = _list_images(folder, classes, needs_all=folder == folders["train"])
    positions = np.arange(len(paths))
    if not eval_folders:
        held_out = _held_out(paths, labels)
        positions = np.flatnonzero(held_out if split_name == "eval" else ~held_out)
    if not len(positions):
        raise ValueError(
            f"{str(root)!r} has only {len(paths)} images, too few to hold some out for "
            f"eval; put them into {str(root / 'train' / 'CLASS')!r} and "
            f"{str(root / EVAL_FOLDERS[0] / 'CLASS')!r}."
        )
    if part is not None:
        by_hash = sorted(positions, key=lambda i: _hash(paths[i]))
        positions = np.sort(np.array(by_hash)[part_positions(len(positions), part)])
    examples = FolderExamples(folder, [paths[i] for i in positions], labels[positions])
    return Source(f"folder:{directory}", split, classes, examples)


class FolderExamples(Sequence[Example]):
    """Image files, named by their path and read on access.

    The paths are stored as one byte string, because every worker process gets a copy of
    what may be a million paths.
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

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        """Read an image file; raises UnreadableImage if it cannot be read."""
        index = range(len(self))[index]
        path = os.fsdecode(self._paths[self._ends[index] : self._ends[index + 1]])
        try:
            data = (self._folder / path).read_bytes()
        except OSError as e:
            file = str(self._folder / path)
            raise UnreadableImage(f"{file!r} cannot be read: {e.strerror}.") from e
        return {"image": data, "label": int(self._labels[index]), "name": path}


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; only `train` if DIR holds the classes themselves."""
    if not os.path.isdir(root):
        problem = "is not a folder" if os.path.exists(root) else "does not exist"
        raise ValueError(f"{str(root)!r} {problem}; expected a folder of images.")
    names = list_subfolders(root)
    splits = {"train", *EVAL_FOLDERS}
    if "train" in names and list_subfolders(root / "train"):
        return {name: root / name for name in names if name in splits}
    if names and splits.issuperset(names):
        raise ValueError(
            f"{str(root)!r} contains {', '.join(names)}, but no folders of classes in "
            f"train; expected {str(root / 'train' / 'CLASS')!r}."
        )
    return {"train": root}


def _class_names(train: Path) -> tuple[str, ...]:
    classes = list_subfolders(train)
    if len(classes) < 2:
        contents = f"only one folder, {classes[0]!r}" if classes else "no folders"
        raise ValueError(
            f"{str(train)!r} contains {contents}; expected one folder for each of at least "
            "two classes."
        )
    return tuple(classes)


def _list_images(
    folder: Path, classes: Sequence[str], *, needs_all: bool
) -> tuple[list[str], Int32[np.ndarray, " n"]]:
    """Return the paths of all images, relative to `folder`, and their labels.

    Raises ValueError if there are no images, if an image is not in one of `classes`, or if
    `needs_all` is set and a class has no images.
    """
    images: dict[str, list[str]] = {}
    num_others = 0
    for name in list_subfolders(folder):
        paths, others = find_images(folder, name)
        images[name] = sorted(paths)
        num_others += others
    if not any(images.values()):
        raise ValueError(
            f"{str(folder)!r} contains no images in folders of classes; {num_others} files "
            f"have other extensions than {EXTENSIONS}."
        )
    unknown = [repr(name) for name in images if images[name] and name not in classes]
    if unknown:
        raise ValueError(
            f"{str(folder)!r} contains classes that are not in train: "
            f"{first_few(unknown, 3)}."
        )
    empty = [repr(name) for name in classes if not images.get(name)]
    if needs_all and empty:
        raise ValueError(
            f"{str(folder)!r} contains no images of {first_few(empty, 3)}; add images or "
            "remove the folder."
        )
    counts = [len(images.get(name, [])) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return [path for name in classes for path in images.get(name, [])], labels


def _held_out(
    paths: Sequence[str], labels: Int32[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return a mask of the images held out by hash; no class loses all its images."""
    held_out = np.array([_hash(path) for path in paths]) < HELD_OUT * 2**64
    num_left = np.bincount(labels, weights=~held_out)
    return held_out & (num_left[labels] > 0)


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())
