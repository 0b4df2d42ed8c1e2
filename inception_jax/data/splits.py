# SPDX-License-Identifier: Apache-2.0
"""Splits and parts of splits in TFDS's notation: `train[:100]`, `eval[50%:]`."""

import re

_BOUND = r"(-?\d+%?)?"
_SPLIT = re.compile(rf"(\w+)(?:\[{_BOUND}:{_BOUND}\])?")


def parse_split(split: str, names: tuple[str, ...]) -> tuple[str, slice | None]:
    """Return the name of a split and the part of it, for `part_positions`.

    Raises ValueError if the notation is invalid or the name is not one of `names`.
    """
    match = _SPLIT.fullmatch(split)
    if match is None or match[1] not in names:
        raise ValueError(
            f"unknown split {split!r}; expected {', '.join(names)} or a part such as "
            f"'{names[0]}[:100]' or '{names[0]}[90%:]'."
        )
    part = slice(match[2], match[3]) if "[" in split else None
    return match[1], part


def part_positions(length: int, part: slice | None) -> range:
    """Return the positions of a part of `length` examples; None is all of them.

    Raises ValueError if the part is empty.
    """
    if part is None:
        return range(length)
    start, stop = _position(part.start, length), _position(part.stop, length)
    positions = range(length)[start:stop]
    if not positions:
        bounds = f"[{part.start or ''}:{part.stop or ''}]"
        raise ValueError(f"the part {bounds} of {length} examples is empty.")
    return positions


def _position(bound: str | None, length: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        return round(length * int(bound[:-1]) / 100)  # rounded as in TFDS
    return int(bound)
