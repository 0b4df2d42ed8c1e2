# SPDX-License-Identifier: Apache-2.0
"""What `inception-jax data check` answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from inception_jax.text import one_line


@dataclass(frozen=True)
class Report:
    """Whether a data set can be trained on, what was seen, and what to do if it cannot."""

    name: str
    ready: bool
    facts: Sequence[tuple[str, str]]  # what was looked at, and what was found
    todo: Sequence[str] = ()  # lines for a shell, where not ready

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.facts)
        lines = [f"{one_line(self.name)}: {'ready' if self.ready else 'not ready'}", ""]
        lines += [
            f"  {label.ljust(width)}  {one_line(found)}" for label, found in self.facts
        ]
        if self.todo:
            lines += ["", "next:", *(f"  {one_line(line)}" for line in self.todo)]
        return "\n".join(lines)
