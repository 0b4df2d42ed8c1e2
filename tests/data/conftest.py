# SPDX-License-Identifier: Apache-2.0
"""The command line of data sets."""

from collections.abc import Callable

import pytest

from inception_jax.cli.main import main


@pytest.fixture
def run_data(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`inception-jax data ARGUMENTS`: status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            main(["data", *arguments])
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run
