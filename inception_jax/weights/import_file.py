# SPDX-License-Identifier: Apache-2.0
"""Import of weight files: identify library and network, check the arrays, convert them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from inception_jax.data.imagenet import imagenet_ids
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.text import first_few, one_line
from inception_jax.weights import array_file, convert, read_file
from inception_jax.weights.convert import Arrays, NameMatch, match_names
from inception_jax.weights.layouts import FACENET, LAYOUTS, Layout, array_names
from inception_jax.weights.model import Model, check_variables
from inception_jax.weights.model_folder import Card, Origin, Variables


@dataclass(frozen=True)
class Imported:
    """The content of a weight file."""

    card: Card
    variables: Variables
    left_out: list[str]  # names of arrays that no network uses, such as global_step


def import_file(
    path: Path, class_names: Sequence[str] | None = None, sha256: str | None = None
) -> Imported:
    """Read a weight file, whose library and network are recognised from its array names.

    Args:
        path: the file.
        class_names: names of the file's classes; default: ImageNet's if there are 1000,
            otherwise the numbers from 0.
        sha256: the expected SHA-256 of the file, in hexadecimal.

    Raises ValueError if the digest differs, if the arrays are not exactly those of one
    layout, or if an array of a library's file is not float32, has NaN or infinite values,
    or has a negative variance. Also raises the errors of `read_file.read_arrays`.
    """
    digest = read_file.file_sha256(path)
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"the SHA-256 of {one_line(path)} is {digest}, expected {sha256}.")
    arrays = read_file.read_arrays(path)
    try:
        if any(name.startswith("params/") for name in arrays):
            return _import_own_file(path, arrays, class_names)
        return _import_library_file(path.name, digest, arrays, class_names)
    except ValueError as error:
        raise ValueError(f"{one_line(path)}: {error}") from None


def _import_own_file(
    path: Path, content: Arrays, class_names: Sequence[str] | None
) -> Imported:
    card, arrays = array_file.split_card(path, content)
    if class_names is not None:
        raise ValueError("the file includes its class names; omit --classes.")
    variables = unflatten_dict(arrays, sep="/")
    check_variables(Model(card), variables, "its arrays")
    return Imported(card, variables, [])


def _import_library_file(
    file: str, sha256: str, library_arrays: Arrays, class_names: Sequence[str] | None
) -> Imported:
    layout, match = identify_layout(library_arrays)
    used = {name: library_arrays[name] for name in match.names.values()}
    background = convert.has_background(layout, used)
    card = Card(
        network=layout.network,
        preprocess=layout.preprocess,
        class_names=_class_names(layout, used, class_names),
        origin=Origin(layout.library, file, sha256, background_removed=background),
        bn_scale=layout.convention.gamma is not None,
        aux_head=any(name.startswith("params/AuxLogits/") for name in match.names),
    )
    _check_shapes(layout, match, card, used)
    _check_values(layout, used)
    arrays = convert.from_library(layout, used)
    return Imported(card, unflatten_dict(arrays, sep="/"), match.ignored)


def identify_layout(library_arrays: Arrays) -> tuple[Layout, NameMatch]:
    """Return the layout whose names are exactly those of the file, and the match.

    Raises ValueError, with the closest layout and the differing names, if there is none.
    """
    matches = {layout: match_names(layout, library_arrays) for layout in LAYOUTS}

    def rank(layout: Layout) -> tuple[float, bool]:
        # If two layouts have the same names, a background class decides.
        background = convert.has_background(layout, library_arrays)
        return matches[layout].distance, not background

    closest = min(LAYOUTS, key=rank)
    matches[closest].check(
        f"these are not the arrays of a supported network; the closest is {closest}"
    )
    return closest, matches[closest]


def _class_names(
    layout: Layout, library_arrays: Arrays, class_names: Sequence[str] | None
) -> tuple[str, ...]:
    count = convert.num_classes(layout, library_arrays)
    if class_names is not None:
        if len(class_names) != count:
            raise ValueError(f"got {len(class_names)} class names for {count} classes.")
        return tuple(class_names)
    ids = imagenet_ids()
    if count == len(ids) and layout.network != FACENET:
        return ids
    return tuple(map(str, range(count)))


def _check_shapes(
    layout: Layout, match: NameMatch, card: Card, library_arrays: Arrays
) -> None:
    """Raise ValueError unless every array has the shape that the card's network needs."""
    shapes = {name: x.shape for name, x in flatten_with_paths(Model(card).shapes).items()}
    wrong_shapes = []
    for name, library_name in match.names.items():
        shape = shapes.pop(name)
        if card.origin.background_removed and name.startswith(convert.CLASSIFIERS):
            shape = (*shape[:-1], shape[-1] + 1)
        expected = convert.library_shape(layout, shape)
        actual = library_arrays[library_name].shape
        if actual != expected:
            wrong_shapes.append(
                f"{library_name} is {list(actual)} instead of {list(expected)}"
            )
    assert not shapes, f"{layout} lacks arrays of the network: {first_few(list(shapes))}"
    match.check(f"the arrays are not those of {layout}", wrong_shapes)


def _check_values(layout: Layout, arrays: Arrays) -> None:
    """Raise ValueError for other types than float32, NaN, infinity, negative variances."""
    other = [f"{name} is {x.dtype}" for name, x in arrays.items() if x.dtype != np.float32]
    if other:
        raise ValueError(f"arrays must be float32; {first_few(other)}.")
    not_finite = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if not_finite:
        raise ValueError(f"NaN or infinite values in {first_few(not_finite)}.")
    names = (y for x, y in array_names(layout).items() if x.endswith("/bn/var"))
    negative = [name for name in names if name in arrays and (arrays[name] < 0).any()]
    if negative:
        raise ValueError(f"negative variances in {first_few(negative)}.")
