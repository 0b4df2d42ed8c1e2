# SPDX-License-Identifier: Apache-2.0
"""What the commands that apply a model to images share: MODEL, progress, faults."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from inception_jax.runtime import compile_cache
from inception_jax.text import one_line, printable
from inception_jax.weights.model import Model, load, models_folder
from inception_jax.weights.model_folder import CARD_FILE, Variables

Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
Weights = Literal["ema", "raw"]


def load_model(
    name: str | None, weights: Weights, step: int | None
) -> tuple[str, Model, Variables]:
    """Name, model and variables of `name`, or of the only model in `models_folder`.

    Compiled programs are kept from now on. Raises as `load` does, and ValueError where
    there is no name and not one model.
    """
    compile_cache.enable()
    if name is None:
        name = _only_model()
        print(f"The model is {one_line(name)}.", file=sys.stderr)
    return (name, *load(name, weights=weights, step=step))


def _only_model() -> str:
    folder = models_folder()
    names = sorted(path.parent.name for path in folder.glob(f"*/{CARD_FILE}"))
    if len(names) != 1:
        there = f"there are {', '.join(map(one_line, names))}" if names else "there is none"
        raise ValueError(f"--model is missing, and in {folder} {there}; expected one.")
    return names[0]


class Watch:
    """Says on standard error what could not be read and, on a terminal, how far it is."""

    def __init__(self, total: int) -> None:
        self.faults: list[str] = []
        self._total, self._done = total, 0
        self._first: tuple[float, int] | None = None  # when, how many: before, it compiled

    def batch(self, read: int, faults: Sequence[str]) -> None:
        """A batch is done, of which so many images were read."""
        self.clear()
        for fault in faults:
            print(f"inception-jax: {printable(fault)}", file=sys.stderr)
        self.faults += faults
        self._done += read + len(faults)
        now = time.perf_counter()
        if self._first is None:
            self._first = now, self._done
        if not sys.stderr.isatty() or self._done == self._total:
            return
        line = f"{self._done:,} of {self._total:,} images"
        start, before = self._first
        if self._done > before:
            rate = (self._done - before) / (now - start)
            left = (self._total - self._done) / rate
            line += f", {rate:,.1f}/s, {left:,.0f} s left"
        print(line, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room for a line of output."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Exit with 1 where images could not be read."""
        if self.faults:
            print(
                f"inception-jax: {len(self.faults):,} of {self._total:,} images could not "
                "be read and were left out.",
                file=sys.stderr,
            )
            raise SystemExit(1)
