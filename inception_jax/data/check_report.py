# SPDX-License-Identifier: Apache-2.0
"""The report that `inception-jax data check` prints."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inception_jax.text import format_bytes, one_line

Facts = list[tuple[str, str]]
# Called with the number of bytes or images read so far, and their total.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """Whether a data set is ready for training, and if not, what to do."""

    name: str
    ready: bool
    facts: Sequence[tuple[str, str]]  # label and finding; an empty label continues the last
    next_steps: Sequence[str] = ()  # shell commands and comments

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.facts)
        lines = [f"{one_line(self.name)}: {'ready' if self.ready else 'not ready'}", ""]
        lines += [f"  {label.ljust(width)}  {one_line(fact)}" for label, fact in self.facts]
        if self.next_steps:
            lines += ["", "next:", *(f"  {one_line(line)}" for line in self.next_steps)]
        return "\n".join(lines)


def disk_space(root: Path, needed: int = 0) -> Facts:
    """Return the free disk space for a folder that need not exist yet."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    short = f", {format_bytes(needed - free)} TOO LITTLE" if needed > free else ""
    return [("free disk", f"{format_bytes(free)}{short}")]
