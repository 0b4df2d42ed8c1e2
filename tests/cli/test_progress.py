# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal, and the report of images that could not be read."""

import io
import sys

import pytest

from inception_jax.cli.progress import ImageProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_line_on_a_terminal(monkeypatch):
    clock = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr("inception_jax.cli.progress.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = ImageProgress(4000)
    progress.add_batch(1000, [])
    progress.add_batch(999, ["'\x1b[31m' cannot be read."])
    assert terminal.getvalue().split("\r\033[K")[1:] == [
        "1,000 of 4,000 images",
        # The rate leaves out the first batch, during which programs are compiled.
        "inception-jax: '\\x1b[31m' cannot be read.\n"
        "2,000 of 4,000 images, 500.0/s, 4 s left",
    ]
    progress.add_batch(2000, [])
    assert terminal.getvalue().endswith("4 s left\r\033[K")


def test_only_errors_are_printed_elsewhere(capsys):
    progress = ImageProgress(3)
    progress.add_batch(2, [])
    progress.finish()  # does not exit
    assert capsys.readouterr() == ("", "")
    progress.add_batch(0, ["'x' cannot be read."])
    assert progress.errors == ["'x' cannot be read."]
    with pytest.raises(SystemExit) as status:
        progress.finish()
    assert status.value.code == 1
    assert capsys.readouterr().err == (
        "inception-jax: 'x' cannot be read.\n"
        "inception-jax: 1 of 3 images could not be read and were left out.\n"
    )
