# SPDX-License-Identifier: Apache-2.0
"""The page of options matches the dataclasses of `inception_jax.config`.

Regenerate it with `python -m tests.test_options_table`.
"""

import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

from inception_jax.config import RunConfig

PAGE = Path(__file__).parents[1] / "inception_jax" / "training" / "OPTIONS.md"
INTRODUCTION = """# Options of a training run

These are the options of `python -m experiments.run RECIPE`; a recipe may change defaults. A
section, figure or library at the end of a meaning is the source of the default. Sections
and figures are those of arXiv 1602.07261; TF-slim is its published code. `python -m
tests.test_options_table` generates this page from [config](../config/__init__.py).

| option | default | meaning |
|---|---|---|
"""


def field_comments(kind: type) -> dict[str, str]:
    """Return the comment of each field of a dataclass, on its line or above it."""
    comments, above = {}, []
    for line in inspect.getsource(kind).splitlines():
        if match := re.fullmatch(r"    (\w+): .*?(?:  # (.*))?", line):
            comments[match[1]] = match[2] or " ".join(above)
        comment = re.fullmatch(r"    # (.*)", line)
        above = [*above, comment[1]] if comment else []
    return comments


def choices(annotation: object) -> list[str]:
    """Return the names that a field accepts: the strings of the Literal in its type."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [name for member in get_args(annotation) for name in choices(member)]


def rows(config: object, prefix: str = "--") -> list[str]:
    """Return one row of the table for each option, nested ones after the others."""
    comments, plain, nested = field_comments(type(config)), [], []
    for each in fields(config):
        value, name = getattr(config, each.name), prefix + each.name.replace("_", "-")
        if is_dataclass(value):
            nested += rows(value, f"{name}.")
        else:
            default = " ".join(map(str, value)) if isinstance(value, tuple) else value
            meaning, names = comments[each.name], choices(each.type)
            if not all(re.search(rf"\b{re.escape(x)}\b", meaning) for x in names):
                meaning += f" Choices: {', '.join(names)}."
            plain.append(f"| `{name}` | {default} | {meaning} |")
    return plain + nested


def page() -> str:
    return INTRODUCTION + "\n".join(rows(RunConfig())) + "\n"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_option_has_a_meaning():
    assert all(re.search(r"\| [A-Z].*\. \|$", row) for row in rows(RunConfig()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
