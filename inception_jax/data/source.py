# SPDX-License-Identifier: Apache-2.0
"""Examples, and sources that give random access to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from jaxtyping import UInt8


class Example(TypedDict):
    """An image with its label and its name."""

    image: bytes | UInt8[np.ndarray, "h w c"]  # encoded file, or decoded pixels
    label: int  # index of the class
    name: str  # file name or key, for error messages and predictions


@dataclass(frozen=True)
class Source:
    """A split of a data set: examples with random access, and class names by label."""

    name: str
    split: str
    class_names: tuple[str, ...] = field(repr=False)
    examples: Sequence[Example] = field(repr=False)

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Subset(Sequence[Example]):
    """The examples at `positions`, in that order."""

    examples: Sequence[Example]
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        return self.examples[self.positions[index]]
