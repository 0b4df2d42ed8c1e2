# SPDX-License-Identifier: Apache-2.0
"""A fixture that runs `inception-jax data`."""

from collections.abc import Callable

import pytest

from inception_jax.cli.main import main


@pytest.fixture
def run_data(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `inception-jax data ARGUMENTS`; return exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            main(["data", *arguments])
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run
