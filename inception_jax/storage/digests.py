# SPDX-License-Identifier: Apache-2.0
"""Digests of states: the proof that what is read back is what was saved."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np


class CheckpointError(OSError):
    """A checkpoint cannot be written or read back: the disk's fault and not the user's."""


def by_name(state: Any) -> dict[str, Any]:
    """Leaves of a tree by their paths, such as params/Logits/kernel, in its order.

    Raises ValueError where two leaves have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
    if len(named) < len(leaves):
        raise ValueError("two leaves of the state have the same name; rename one.")
    return named


def digests(state: Any) -> dict[str, str]:
    """SHA-256 of each leaf, over dtype, shape and bytes, by name."""
    named = by_name(state)
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        return dict(zip(named, pool.map(_digest, named.values()), strict=True))


def tree_digest(state: Any) -> str:
    """One SHA-256 for all leaves and their names; what holds the leaves does not count."""
    return _of_all(digests(state))


def _digest(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    digest = hashlib.sha256(f"{array.dtype.name} {np.shape(leaf)}\n".encode())
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _of_all(named: Mapping[str, str]) -> str:
    return json_digest(sorted(named.items()))


def json_digest(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Leaf:
    """An array as it was saved."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def num_bytes(self) -> int:
        """In memory."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Record:
    """What a checkpoint holds; stands beside its arrays."""

    step: int
    leaves: dict[str, Leaf]  # by name, in the order of the tree

    @classmethod
    def of(cls, step: int, state: Any) -> "Record":
        """The record of a state of NumPy arrays."""
        named, sums = by_name(state), digests(state)
        return cls(
            step,
            {
                name: Leaf(x.dtype.name, tuple(x.shape), sums[name])
                for name, x in named.items()
            },
        )

    @property
    def digest(self) -> str:
        """`tree_digest` of the state."""
        return _of_all({name: leaf.sha256 for name, leaf in self.leaves.items()})

    def to_json(self) -> dict[str, Any]:
        """With a digest of its own."""
        value = {
            "step": self.step,
            "leaves": [{"name": n, **asdict(leaf)} for n, leaf in self.leaves.items()],
        }
        value = json.loads(json.dumps(value))  # tuples become lists, as they are read
        return {**value, "sha256": json_digest(value)}

    @classmethod
    def from_json(cls, value: Any) -> "Record":
        """Raises CheckpointError where `value` is not what `to_json` gave."""
        if not isinstance(value, dict):
            raise CheckpointError("its own record is not as it was written")
        value = dict(value)
        if value.pop("sha256", None) != json_digest(value):
            raise CheckpointError("its own record is not as it was written")
        leaves = {
            leaf["name"]: Leaf(leaf["dtype"], tuple(leaf["shape"]), leaf["sha256"])
            for leaf in value["leaves"]
        }
        return cls(value["step"], leaves)

    def damaged(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Names of the leaves that `arrays` does not hold as they were saved."""
        found = digests(dict(arrays)) if arrays else {}
        saved = {name: leaf.sha256 for name, leaf in self.leaves.items()}
        return [name for name in saved | found if saved.get(name) != found.get(name)]

    def differences(self, like: Any) -> list[str]:
        """Leaves of the state and of `like` that differ in name, dtype or shape."""
        here = {
            name: Leaf(np.dtype(x.dtype).name, tuple(x.shape), "")
            for name, x in by_name(like).items()
        }
        return [
            f"{name} is {self.leaves.get(name, 'missing')} there, "
            f"{here.get(name, 'missing')} here"
            for name in self.leaves | here
            if str(self.leaves.get(name)) != str(here.get(name))
        ]


def some(names: list[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
