# SPDX-License-Identifier: Apache-2.0
"""Files of JSON lines; a crash loses at most the line being written."""

import json
import math
from pathlib import Path
from typing import Any


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append `record` to `path` as one line; numbers that are not finite become null.

    The line is written at once, so an interruption loses no earlier line. An incomplete
    last line, left by a crash, is removed first, because this one would be appended to it.
    """
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    with path.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON lines file; an empty list if it does not exist.

    An incomplete last line, left by a crash, is ignored. Raises ValueError, naming the
    line, if another one is not JSON.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}); remove the line."
            ) from None
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
