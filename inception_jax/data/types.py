# SPDX-License-Identifier: Apache-2.0
"""What sources and batches are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt32


class Example(TypedDict):
    """One image as it is stored, the index of its class, and what to call it."""

    image: bytes | UInt8[np.ndarray, "h w c"]  # bytes: the file, still encoded
    label: int
    name: str  # file name or key: for messages, lists of images and predictions


@dataclass(frozen=True)
class Source:
    """Examples with random access, and the names of their classes by label."""

    name: str
    split: str
    class_names: tuple[str, ...] = field(repr=False)
    examples: Sequence[Example] = field(repr=False)

    def __len__(self) -> int:
        return len(self.examples)


class TrainBatch(TypedDict):
    """Examples of one training step."""

    image: UInt8[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]
    color_seed: NotRequired[UInt32[np.ndarray, " b"]]  # with AugmentConfig.color
    skipped: NotRequired[list[str]]  # with on_bad_image="skip": faults, each naming a file


class EvalBatch(TypedDict):
    """Examples of one evaluation step; the last one is filled up."""

    # With several views of each image, [b, views, h, w, c].
    image: UInt8[np.ndarray, "b h w c"] | UInt8[np.ndarray, "b views h w c"]
    label: Int32[np.ndarray, " b"]
    mask: Float32[np.ndarray, " b"]  # 0 for filling and for skipped images, otherwise 1
    index: Int32[np.ndarray, " b"]  # position in the source; -1 for filling
    skipped: NotRequired[list[str]]  # as above


@dataclass(frozen=True)
class Subset(Sequence):
    """Some of the examples, in the order of `positions`."""

    examples: Sequence[Example]
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Example:
        return self.examples[self.positions[i]]
