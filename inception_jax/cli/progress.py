# SPDX-License-Identifier: Apache-2.0
"""Progress over image files, and a report of those that could not be read."""

import sys
import time
from collections.abc import Sequence

from inception_jax.text import printable


class ImageProgress:
    """Prints unreadable images and, on a terminal, a progress line to standard error."""

    def __init__(self, total: int) -> None:
        self.errors: list[str] = []
        self._total, self._done = total, 0
        # Time and count after the first batch, whose time is mostly compilation.
        self._rate_start: tuple[float, int] | None = None

    def add_batch(self, num_read: int, errors: Sequence[str]) -> None:
        """Count a batch of `num_read` images and of one unreadable image per error."""
        self.clear_line()
        for error in errors:
            print(f"inception-jax: {printable(error)}", file=sys.stderr)
        self.errors += errors
        self._done += num_read + len(errors)
        now = time.perf_counter()
        if self._rate_start is None:
            self._rate_start = now, self._done
        if not sys.stderr.isatty() or self._done == self._total:
            return
        line = f"{self._done:,} of {self._total:,} images"
        start, done_at_start = self._rate_start
        if self._done > done_at_start:
            rate = (self._done - done_at_start) / (now - start)
            seconds_left = (self._total - self._done) / rate
            line += f", {rate:,.1f}/s, {seconds_left:,.0f} s left"
        print(line, end="", file=sys.stderr, flush=True)

    def clear_line(self) -> None:
        """Erase the progress line, before other output."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Exit with status 1 if any image could not be read."""
        if self.errors:
            print(
                f"inception-jax: {len(self.errors):,} of {self._total:,} images could not "
                "be read and were left out.",
                file=sys.stderr,
            )
            raise SystemExit(1)
