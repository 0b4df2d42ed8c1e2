# SPDX-License-Identifier: Apache-2.0
"""Names from outside (of files, classes, runs, records) as text that is safe to show."""


def printable(text: object) -> str:
    """`str(text)` with escapes such as \\x1b for all but letters, signs, spaces and ends
    of lines: no name moves the cursor, recolours the terminal or turns what follows
    around, and one that is not UTF-8 can be written."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def one_line(text: object) -> str:
    """As `printable`; ends of lines too are escaped: no name passes for two."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
