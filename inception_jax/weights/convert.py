# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries as ours and back, where every name is used exactly once.

Pure functions on flat dicts of arrays by name; ours are named as in a model folder.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inception_jax.storage.digests import some
from inception_jax.text import one_line
from inception_jax.weights.layouts import Layout, array_names, ignored_names

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]

CLASSIFIERS = ("params/Logits/", "params/AuxLogits/Logits/")
# ImageNet's classes and, before them, "none of them".
WITH_BACKGROUND = 1001


@dataclass(frozen=True)
class Match:
    """How the names of a file and those of a layout fit together."""

    names: dict[str, str]  # the source's by ours, all that are needed
    missing: list[str]
    left_over: list[str]
    extras: list[str]  # known, and of no use

    @property
    def distance(self) -> float:
        """Share of all names that only one side has: 0 where they fit, 1 for strangers."""
        wrong = len(self.missing) + len(self.left_over)
        return wrong / (2 * len(self.names) - len(self.missing) + len(self.left_over))

    def check(self, said: str, misshaped: Sequence[str] = ()) -> None:
        """Raise ValueError, which begins with `said`, with the first of all that does not
        fit."""
        found = {
            "missing": self.missing,
            "left over": self.left_over,
            "of another shape": misshaped,
        }
        wrong = [
            f"{what}: {some(list(map(one_line, x)))}" for what, x in found.items() if x
        ]
        if wrong:
            raise ValueError(f"{said}; {'; '.join(wrong)}.")


def match(layout: Layout, found: Iterable[str]) -> Match:
    """Compare the names in a file with those of a layout.

    A part that a file may lack is needed as soon as one of its arrays is there.
    """
    found = set(found)
    every = array_names(layout)
    there = {_part(ours) for ours, theirs in every.items() if theirs in found}
    names = array_names(layout, set(layout.optional) - there)
    extras = ignored_names(layout)
    return Match(
        names,
        missing=[x for x in names.values() if x not in found],
        left_over=sorted(found - set(names.values()) - extras),
        extras=sorted(found & extras),
    )


def _part(ours: str) -> str:
    return ours.split("/")[1]


def num_classes(layout: Layout, theirs: Arrays) -> int:
    """Classes of our network for these arrays, without background; 0: no classifier.

    Raises ValueError where the classifier's biases are not one number for each class.
    """
    name = array_names(layout)["params/Logits/bias"]
    if name not in theirs:
        return 0
    shape = theirs[name].shape
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"{one_line(name)} is {list(shape)}; expected one number for each class."
        )
    return shape[0] - has_background(layout, theirs)


def has_background(layout: Layout, theirs: Arrays) -> bool:
    """Whether the first class of these arrays is none of ImageNet's."""
    biases = theirs.get(array_names(layout)["params/Logits/bias"])
    return layout.background and biases is not None and biases.shape == (WITH_BACKGROUND,)


def from_library(layout: Layout, theirs: Arrays) -> dict[str, np.ndarray]:
    """Our arrays from the source's, without a background class.

    Where the source has no gamma there is none: they fit a network with bn_scale=False.
    Raises ValueError, with the names, where one is missing or left over.
    """
    fit = match(layout, theirs)
    fit.check(f"the arrays are not those of {layout}")
    first = int(has_background(layout, theirs))
    ours = {}
    for name, source in fit.names.items():
        x = theirs[source]
        if layout.convention.output_first:
            x = x.transpose(_output_last(x.ndim))
        ours[name] = x[..., first:] if name.startswith(CLASSIFIERS) else x
    return ours


def to_library(layout: Layout, ours: Arrays) -> dict[str, np.ndarray]:
    """The source's arrays from ours, contiguous, as its own files have them.

    Where the source has no gamma, ours is multiplied into kernel and mean, which changes
    no output but by rounding; where it has one and ours has not, it is 1. An aux head,
    which serves training alone, is left out where the source has none.

    Raises ValueError, with the names, where one of ours is missing or left over.
    """
    words = layout.convention
    ours = {name: np.asarray(x) for name, x in ours.items()}
    parts = {_part(name) for name in array_names(layout)}
    if "AuxLogits" not in parts:
        ours = {name: x for name, x in ours.items() if _part(name) != "AuxLogits"}
    ours = without_gamma(ours) if words.gamma is None else _with_gamma(ours)
    names = array_names(layout, set(layout.optional) - {_part(name) for name in ours})
    left_over = sorted(ours.keys() - names.keys())
    missing = [name for name in names if name not in ours]
    Match(names, missing, left_over, []).check(f"the arrays are not those of {layout}")
    theirs = {}
    for name, source in names.items():
        x = ours[name]
        if words.output_first:
            x = x.transpose(_output_first(x.ndim))
        theirs[source] = np.ascontiguousarray(x)
    if words.counts_batches:
        counts = (x for x in ignored_names(layout) if x not in theirs)
        theirs |= {x: np.zeros((), np.int64) for x in sorted(counts)}
    return theirs


def library_shape(layout: Layout, shape: Shape) -> Shape:
    """Shape in the source of an array that has `shape` here, without background."""
    if not layout.convention.output_first:
        return shape
    return tuple(shape[axis] for axis in _output_first(len(shape)))


def without_gamma(ours: Arrays) -> dict[str, np.ndarray]:
    """The same function of the images in a network with bn_scale=False.

    gamma * (kernel x - mean) / sd + beta = ((gamma kernel) x - gamma mean) / sd + beta.
    """
    folded = {name: x for name, x in ours.items() if not name.endswith("/bn/scale")}
    for name, gamma in ours.items():
        if not name.endswith("/bn/scale"):
            continue
        layer = name.removeprefix("params/").removesuffix("/bn/scale")
        linear = "fc" if layer == "Bottleneck" else "conv"
        kernel, mean = f"params/{layer}/{linear}/kernel", f"batch_stats/{layer}/bn/mean"
        for factor in (kernel, mean):
            if factor in folded:  # else it is missing, which is said of all at once
                folded[factor] = folded[factor] * gamma
    return folded


def _with_gamma(ours: Arrays) -> dict[str, np.ndarray]:
    if any(name.endswith("/bn/scale") for name in ours):
        return dict(ours)
    ones = {
        name.removesuffix("bias") + "scale": np.ones_like(x)
        for name, x in ours.items()
        if name.endswith("/bn/bias")
    }
    return {**ours, **ones}


def _output_last(rank: int) -> Shape:
    """Axes for transpose: OIHW as HWIO, [out, in] as [in, out]."""
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _output_first(rank: int) -> Shape:
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(rank, tuple(range(rank)))
