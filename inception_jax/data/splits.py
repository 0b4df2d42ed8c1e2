# SPDX-License-Identifier: Apache-2.0
"""Names of splits and of parts of them, in TFDS's notation: `train[:100]`, `eval[50%:]`."""

import re

_BOUND = r"(-?\d+%?)?"
_SPLIT = re.compile(rf"(\w+)(?:\[{_BOUND}:{_BOUND}\])?")


def parse_split(split: str, known: tuple[str, ...]) -> tuple[str, slice | None]:
    """Name and part of a split; bounds of the part are strings, see `part_positions`.

    Raises ValueError on another notation, or on a name that is not known.
    """
    match = _SPLIT.fullmatch(split)
    if match is None or match[1] not in known:
        raise ValueError(
            f"unknown split {split!r}; there are {' and '.join(known)}, and parts of them "
            f"such as '{known[0]}[:100]' or '{known[0]}[90%:]'."
        )
    part = slice(match[2], match[3]) if "[" in split else None
    return match[1], part


def part_positions(length: int, part: slice | None) -> range:
    """The positions, of so many examples, that the part of a split holds.

    Raises ValueError if there are none.
    """
    if part is None:
        return range(length)
    chosen = range(length)[_position(part.start, length) : _position(part.stop, length)]
    if not chosen:
        bounds = f"[{part.start or ''}:{part.stop or ''}]"
        raise ValueError(f"the part {bounds} of {length} examples is empty.")
    return chosen


def _position(bound: str | None, length: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        return round(length * int(bound[:-1]) / 100)  # as TFDS rounds
    return int(bound)
