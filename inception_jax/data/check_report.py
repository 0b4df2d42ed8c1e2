# SPDX-License-Identifier: Apache-2.0
"""The report that `inception-jax data check` prints."""

from collections.abc import Sequence
from dataclasses import dataclass

from inception_jax.text import one_line

Facts = list[tuple[str, str]]


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
