# SPDX-License-Identifier: Apache-2.0
"""SHA-256 digests of states, which verify that a state is read as it was saved."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np


def flatten_with_paths(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path, such as params/Logits/kernel, in tree order.

    Raises ValueError if two leaves have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
    if len(by_path) < len(leaves):
        raise ValueError("two leaves of the tree have the same path; rename one.")
    return by_path


def digests(tree: Any) -> dict[str, str]:
    """Return the SHA-256 of each leaf (dtype, shape and bytes), by path."""
    leaves = flatten_with_paths(tree)
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        return dict(zip(leaves, pool.map(_digest, leaves.values()), strict=True))


def _digest(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    digest = hashlib.sha256(f"{array.dtype.name} {np.shape(leaf)}\n".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Leaf:
    """Type, shape and digest of a saved array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Record:
    """The contents of a checkpoint, stored beside its arrays to verify them."""

    step: int
    leaves: dict[str, Leaf]  # by path, in tree order

    @classmethod
    def of(cls, step: int, state: Any) -> "Record":
        """Return the record of a state of NumPy arrays."""
        sha256 = digests(state)
        leaves = {
            path: Leaf(x.dtype.name, tuple(x.shape), sha256[path])
            for path, x in flatten_with_paths(state).items()
        }
        return cls(step, leaves)

    @property
    def digest(self) -> str:
        """SHA-256 of the state: of the paths and digests of all leaves."""
        return json_digest(sorted((path, x.sha256) for path, x in self.leaves.items()))

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON value, with its own digest."""
        leaves = [{"name": path, **asdict(leaf)} for path, leaf in self.leaves.items()]
        value = json.loads(json.dumps({"step": self.step, "leaves": leaves}))
        return {**value, "sha256": json_digest(value)}

    @classmethod
    def from_json(cls, value: Any) -> "Record":
        """Return the record that `to_json` wrote; raises ValueError if it is damaged."""
        value = dict(value) if isinstance(value, dict) else {}
        if value.pop("sha256", None) != json_digest(value):
            raise ValueError("its list of arrays does not match its own checksum")
        leaves = {
            leaf["name"]: Leaf(leaf["dtype"], tuple(leaf["shape"]), leaf["sha256"])
            for leaf in value["leaves"]
        }
        return cls(value["step"], leaves)

    def damaged_leaves(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Return the paths at which `arrays` differs from what was saved."""
        actual = digests(dict(arrays)) if arrays else {}
        saved = {path: leaf.sha256 for path, leaf in self.leaves.items()}
        return [path for path in saved | actual if saved.get(path) != actual.get(path)]

    def differences(self, like: Any) -> list[str]:
        """Describe the leaves whose dtype or shape differs from those in `like`."""
        expected = {
            path: Leaf(np.dtype(x.dtype).name, tuple(x.shape), "")
            for path, x in flatten_with_paths(like).items()
        }
        descriptions = []
        for path in self.leaves | expected:
            saved = str(self.leaves.get(path, "nothing"))
            current = str(expected.get(path, "nothing"))
            if saved != current:
                descriptions.append(f"{path}: saved {saved}, expected {current}")
        return descriptions
