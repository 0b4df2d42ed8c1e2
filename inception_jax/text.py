# SPDX-License-Identifier: Apache-2.0
"""Text for terminals: names from outside made safe to print, aligned tables, sizes."""

from collections.abc import Sequence


def printable(text: object) -> str:
    """Return `str(text)` with every non-printable character escaped, as in `\\x1b`.

    Newlines and tabs are kept. File, class and run names come from outside; once escaped,
    none of them can move the cursor, change colours or reverse the reading direction, and
    names that are not valid UTF-8 can be written.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def one_line(text: object) -> str:
    """Return `printable(text)` with newlines and tabs escaped as well."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first `limit` names on one line, and how many more there are."""
    shown = ", ".join(map(one_line, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def table(
    header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Return a header, a rule and lines in aligned columns.

    The columns whose indices are in `right` are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, lines)])


def format_bytes(size: int) -> str:
    """Return a number of bytes in decimal units: 1,500,000 becomes "1.5 MB"."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"
