# SPDX-License-Identifier: Apache-2.0
"""Words for a page of Markdown."""

import re

from inception_jax.text import one_line


def markdown(text: object) -> str:
    """Text that starts no HTML tag and makes no link."""
    without_tags = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", one_line(text))
    return without_tags.replace("](", "]\\(")


def cell(text: object) -> str:
    """Text for a cell of a table, which ends at a bar."""
    return markdown(text).replace("|", "\\|")
