# SPDX-License-Identifier: Apache-2.0
"""Helpers for reports: templates, embedded figures and text that is safe in Markdown."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from inception_jax.text import one_line

DPI = 120


def template_environment(
    folder: Path, escape: Callable[[str], str], *, is_html: bool = True
) -> jinja2.Environment:
    """Return the templates of a folder; `escape` is applied to every inserted string."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=is_html,
        finalize=lambda value: escape(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def save_figure(figure: Figure, path: Path) -> dict[str, str | int]:
    """Write a figure as PNG; return its base64 `data` and its `width` in CSS pixels."""
    file = io.BytesIO()
    # Without matplotlib's version the same figure gives the same bytes.
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    path.write_bytes(file.getvalue())
    data = base64.b64encode(file.getvalue()).decode()
    return {"data": data, "width": round(96 * figure.get_figwidth())}


def escape_markdown(text: object) -> str:
    """Return text that starts no HTML tag and makes no link in Markdown."""
    without_tags = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", one_line(text))
    return without_tags.replace("](", "]\\(")


def escape_cell(text: object) -> str:
    """Return text for a cell of a Markdown table, where a bar would end the cell."""
    return escape_markdown(text).replace("|", "\\|")
