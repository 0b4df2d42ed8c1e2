# SPDX-License-Identifier: Apache-2.0
"""Files of other libraries as cards and variables: which they are, and that they fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from inception_jax.data.imagenet import imagenet_ids
from inception_jax.storage.digests import by_name, some
from inception_jax.text import one_line
from inception_jax.weights import array_file, convert, read_file
from inception_jax.weights.convert import Arrays, Match, match
from inception_jax.weights.layouts import FACENET, LAYOUTS, Layout, array_names
from inception_jax.weights.model import Model, check_variables
from inception_jax.weights.model_folder import Card, Origin, Variables


@dataclass(frozen=True)
class Imported:
    """What a file gave."""

    card: Card
    variables: Variables
    layout: Layout | None  # None: our own names
    left_out: list[str]  # names of arrays that are of no use, such as global_step


def import_file(
    path: Path, class_names: Sequence[str] | None = None, sha256: str | None = None
) -> Imported:
    """Read a file of weights; source and network are found by the names in it.

    Args:
        path: of the file.
        class_names: of its classes; default: ImageNet's where there are 1000 of them, and
            numbers from 0 where there is another number.
        sha256: what the file's has to be, in hexadecimal.

    Raises ValueError where its arrays are not exactly those of one layout, all of them
    float32, finite and no variance negative, or its digest is another; and as
    `read_file.read_arrays` does.
    """
    found = read_file.file_sha256(path)
    if sha256 is not None and found != sha256.lower():
        raise ValueError(f"the SHA-256 of {one_line(path)} is {found}, expected {sha256}.")
    theirs = read_file.read_arrays(path)
    try:
        if any(name.startswith("params/") for name in theirs):
            return _of_ours(path, class_names)
        return _converted(path.name, found, theirs, class_names)
    except ValueError as error:
        raise ValueError(f"{one_line(path)}: {error}") from None


def _of_ours(path: Path, class_names: Sequence[str] | None) -> Imported:
    """What `weights export` wrote under our own names, with the card it has."""
    card, arrays = array_file.read(path)
    if class_names is not None:
        raise ValueError("it says itself what its classes are; leave --classes out.")
    variables = unflatten_dict(arrays, sep="/")
    check_variables(Model(card), variables, "it")
    return Imported(card, variables, None, [])


def _converted(
    file: str, sha256: str, theirs: Arrays, class_names: Sequence[str] | None
) -> Imported:
    layout, fit = identify_layout(theirs)
    used = {name: theirs[name] for name in fit.names.values()}
    card = Card(
        network=layout.network,
        preprocess=layout.preprocess,
        class_names=_class_names(layout, used, class_names),
        origin=Origin(
            layout.source,
            file,
            sha256,
            background_removed=convert.has_background(layout, used),
        ),
        bn_scale=layout.convention.gamma is not None,
        aux_head=any(name.startswith("params/AuxLogits/") for name in fit.names),
    )
    _check_shapes(layout, fit, card, used)
    _check_numbers(layout, used)
    ours = convert.from_library(layout, used)
    return Imported(card, unflatten_dict(ours, sep="/"), layout, fit.extras)


def identify_layout(theirs: Arrays) -> tuple[Layout, Match]:
    """The layout that all names of a file are of, and how they fit.

    Raises ValueError with the closest one, and what is missing or left over, if there is
    none.
    """
    fits = {layout: match(layout, theirs) for layout in LAYOUTS}
    # Where names leave a choice, a background class decides; else the table's order.
    layout = min(
        fits, key=lambda x: (fits[x].distance, not convert.has_background(x, theirs))
    )
    fits[layout].check(f"its arrays are of no known layout; closest is {layout}")
    return layout, fits[layout]


def _class_names(
    layout: Layout, theirs: Arrays, given: Sequence[str] | None
) -> tuple[str, ...]:
    count = convert.num_classes(layout, theirs)
    if given is not None:
        if len(given) != count:
            raise ValueError(f"it has {count} classes, and {len(given)} names are given.")
        return tuple(given)
    ids = imagenet_ids()
    if count == len(ids) and layout.network != FACENET:
        return ids
    return tuple(map(str, range(count)))


def _check_shapes(layout: Layout, fit: Match, card: Card, theirs: Arrays) -> None:
    """Every array against ours, whose classes are as many as the classifier has biases."""
    shapes = {name: x.shape for name, x in by_name(Model(card).shapes).items()}
    misshaped = []
    for ours, name in fit.names.items():
        shape = shapes.pop(ours)
        if card.origin.background_removed and ours.startswith(convert.CLASSIFIERS):
            shape = (*shape[:-1], shape[-1] + 1)
        expected = convert.library_shape(layout, shape)
        if theirs[name].shape != expected:
            found = list(theirs[name].shape)
            misshaped.append(f"{name} is {found} instead of {list(expected)}")
    assert not shapes, f"arrays of ours that no layout has: {some(list(shapes))}"
    fit.check(f"its arrays are not those of {layout}", misshaped)


def _check_numbers(layout: Layout, theirs: Arrays) -> None:
    other = [f"{n} is {x.dtype}" for n, x in theirs.items() if x.dtype != np.float32]
    if other:
        raise ValueError(f"arrays must be float32; {some(list(map(one_line, other)))}.")
    wild = [name for name, x in theirs.items() if not np.isfinite(x).all()]
    if wild:
        raise ValueError(f"not finite: {some(list(map(one_line, wild)))}.")
    variances = [y for x, y in array_names(layout).items() if x.endswith("/bn/var")]
    negative = [name for name in variances if name in theirs and (theirs[name] < 0).any()]
    if negative:
        raise ValueError(f"negative variances: {some(list(map(one_line, negative)))}.")
