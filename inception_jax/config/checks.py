# SPDX-License-Identifier: Apache-2.0
"""Dataclasses that check their own values."""

import math
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Types of settings. Each annotation holds the valid range as text and as a test.
Positive = Annotated[float, "> 0", lambda x: x > 0]
Finite = Annotated[float, "finite and > 0", lambda x: 0 < x < math.inf]
NonNegative = Annotated[float, "finite and >= 0", lambda x: 0 <= x < math.inf]
UpToOne = Annotated[float, "in (0, 1]", lambda x: 0 < x <= 1]
BelowOne = Annotated[float, "in [0, 1)", lambda x: 0 <= x < 1]
UnitInterval = Annotated[float, "in [0, 1]", lambda x: 0 <= x <= 1]
Count = Annotated[int, "1 or more", lambda x: x >= 1]
Natural = Annotated[int, "0 or more", lambda x: x >= 0]
Seed = Annotated[int, "from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31]


class Checked:
    """Base class of dataclasses that check their values against their annotations.

    Raises ValueError for a value outside the annotated range.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            _check(each.name, each.type, getattr(self, each.name))


def _check(name: str, annotation: Any, value: Any) -> None:
    """Raise ValueError unless `value` is one of a Literal or in the annotated range."""
    is_union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if is_union else (annotation,)
    kind, *others = (member for member in members if member is not NoneType)
    choices = [None] if NoneType in members else []
    if others or (value is None and choices):
        return
    if get_origin(kind) is Literal:
        choices += get_args(kind)
        check_valid(value in choices, name, value, " or ".join(map(str, choices)))
    elif get_origin(kind) is Annotated:
        expected, is_valid = kind.__metadata__
        check_valid(is_valid(value), name, value, expected)


def check_valid(valid: bool, name: str, value: object, expected: str) -> None:
    """Raise ValueError unless `valid`; `expected` says which values are."""
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
