# SPDX-License-Identifier: Apache-2.0
"""Pages that hold their pictures, of templates; words stay words, whoever wrote them."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

DPI = 120


def templates(
    folder: Path, words: Callable[[str], str], *, is_html: bool = True
) -> jinja2.Environment:
    """The templates of a folder; every text that is put into them goes through `words`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=is_html,
        finalize=lambda value: words(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def written(figure: Figure, path: Path) -> dict[str, str | int]:
    """Write a picture; its `data` in base64 and its `width` in a page's pixels."""
    file = io.BytesIO()
    # No version of matplotlib in the file: the same figure gives the same bytes.
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    path.write_bytes(file.getvalue())
    data = base64.b64encode(file.getvalue()).decode()
    return {"data": data, "width": round(96 * figure.get_figwidth())}
