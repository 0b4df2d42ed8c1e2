# SPDX-License-Identifier: Apache-2.0
"""Conversion of arrays between the names and axes of this package and of other libraries.

Arrays are flat dicts by name. `arrays` have this package's names, as in a model folder;
`library_arrays` have the library's. Every name of either is used exactly once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inception_jax.text import first_few, one_line
from inception_jax.weights.layouts import Layout, array_names, ignored_names, linear_kind

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]

CLASSIFIERS = ("params/Logits/", "params/AuxLogits/Logits/")
# ImageNet's 1000 classes after a background class.
WITH_BACKGROUND = 1001


@dataclass(frozen=True)
class NameMatch:
    """The result of comparing the names in a file with those of a layout."""

    names: dict[str, str]  # all required names of the library, by this package's names
    missing: list[str]
    unexpected: list[str]
    ignored: list[str]  # such as global_step

    @property
    def distance(self) -> float:
        """The share of names without a counterpart: 0 is an exact match, 1 no overlap."""
        unpaired = len(self.missing) + len(self.unexpected)
        paired = len(self.names) - len(self.missing)
        return unpaired / (2 * paired + unpaired)

    def check(self, message: str, wrong_shapes: Sequence[str] = ()) -> None:
        """Raise ValueError, beginning with `message`, if a name or shape does not match."""
        problems = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "wrong shape": wrong_shapes,
        }
        lists = [
            f"{problem}: {first_few(names)}" for problem, names in problems.items() if names
        ]
        if lists:
            raise ValueError(f"{message}; {'; '.join(lists)}.")


def match_names(layout: Layout, names: Iterable[str]) -> NameMatch:
    """Compare the names in a file with those of a layout.

    An optional part of the network is required once the file has one of its arrays.
    """
    names = set(names)
    present = {
        _part(name)
        for name, library_name in array_names(layout).items()
        if library_name in names
    }
    required = array_names(layout, exclude=set(layout.optional) - present)
    ignored = ignored_names(layout)
    return NameMatch(
        required,
        missing=[name for name in required.values() if name not in names],
        unexpected=sorted(names - set(required.values()) - ignored),
        ignored=sorted(names & ignored),
    )


def _part(name: str) -> str:
    return name.split("/")[1]


def num_classes(layout: Layout, library_arrays: Arrays) -> int:
    """Return the number of classes except the background, or 0 without a classifier.

    Raises ValueError if the classifier's bias is not a vector with an entry for each class.
    """
    name = array_names(layout)["params/Logits/bias"]
    if name not in library_arrays:
        return 0
    shape = library_arrays[name].shape
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"{one_line(name)} has shape {list(shape)}; expected one number for each class."
        )
    return shape[0] - has_background(layout, library_arrays)


def has_background(layout: Layout, library_arrays: Arrays) -> bool:
    """Return whether the first class is a background class."""
    bias = library_arrays.get(array_names(layout)["params/Logits/bias"])
    return layout.background and bias is not None and bias.shape == (WITH_BACKGROUND,)


def from_library(layout: Layout, library_arrays: Arrays) -> dict[str, np.ndarray]:
    """Convert a library's arrays to this package's names and axes; drop the background.

    If the library has no gamma, none is added: the result is for a network with
    bn_scale=False. Raises ValueError, with the names, if any is missing or unexpected.
    """
    match = match_names(layout, library_arrays)
    match.check(f"the arrays are not those of {layout}")
    first_class = int(has_background(layout, library_arrays))
    arrays = {}
    for name, library_name in match.names.items():
        x = library_arrays[library_name]
        if layout.convention.output_first:
            x = x.transpose(_output_last(x.ndim))
        arrays[name] = x[..., first_class:] if name.startswith(CLASSIFIERS) else x
    return arrays


def to_library(layout: Layout, arrays: Arrays) -> dict[str, np.ndarray]:
    """Convert this package's arrays to a library's names and axes, contiguous in memory.

    If only this package has gamma, it is folded into kernels and means, which changes
    outputs only by rounding; if only the library has it, it is set to 1. The auxiliary head
    is omitted if the library has none.

    Raises ValueError, with the names, if any is missing or unexpected.
    """
    convention = layout.convention
    parts = {_part(name) for name in array_names(layout)}
    arrays = {
        name: np.asarray(x)
        for name, x in arrays.items()
        if _part(name) != "AuxLogits" or "AuxLogits" in parts
    }
    arrays = fold_gamma(arrays) if convention.gamma is None else _add_gamma(arrays)
    present = {_part(name) for name in arrays}
    names = array_names(layout, exclude=set(layout.optional) - present)
    missing = [name for name in names if name not in arrays]
    unexpected = sorted(arrays.keys() - names.keys())
    NameMatch(names, missing, unexpected, ignored=[]).check(
        f"the arrays are not those of {layout}"
    )
    library_arrays = {}
    for name, library_name in names.items():
        x = arrays[name]
        if convention.output_first:
            x = x.transpose(_output_first(x.ndim))
        library_arrays[library_name] = np.ascontiguousarray(x)
    if convention.counts_batches:
        for name in sorted(ignored_names(layout) - library_arrays.keys()):
            library_arrays[name] = np.zeros((), np.int64)
    return library_arrays


def library_shape(layout: Layout, shape: Shape) -> Shape:
    """Return the library's shape of an array that has `shape` in this package."""
    if not layout.convention.output_first:
        return shape
    return tuple(shape[axis] for axis in _output_first(len(shape)))


def fold_gamma(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return arrays that compute the same function in a network with bn_scale=False.

    gamma * (kernel x - mean) / sd + beta = ((gamma kernel) x - gamma mean) / sd + beta.
    """
    folded = {name: x for name, x in arrays.items() if not name.endswith("/bn/scale")}
    for name in arrays.keys() - folded.keys():
        layer = name.removeprefix("params/").removesuffix("/bn/scale")
        kernel = f"params/{layer}/{linear_kind(layer)}/kernel"
        for factor in (kernel, f"batch_stats/{layer}/bn/mean"):
            if factor in folded:  # the caller reports missing arrays
                folded[factor] = folded[factor] * arrays[name]
    return folded


def _add_gamma(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays, with gammas of 1 if there are no gammas."""
    if any(name.endswith("/bn/scale") for name in arrays):
        return dict(arrays)
    ones = {
        name.removesuffix("bias") + "scale": np.ones_like(x)
        for name, x in arrays.items()
        if name.endswith("/bn/bias")
    }
    return {**arrays, **ones}


def _output_last(rank: int) -> Shape:
    """Return the axes for `transpose`: OIHW to HWIO, [out, in] to [in, out]."""
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _output_first(rank: int) -> Shape:
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(rank, tuple(range(rank)))
