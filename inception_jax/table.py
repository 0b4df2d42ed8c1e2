# SPDX-License-Identifier: Apache-2.0
"""Text in aligned columns, as the commands print it."""

from collections.abc import Sequence


def table(
    header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Header, a rule, lines; the columns numbered in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, lines)])
