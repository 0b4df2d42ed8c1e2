# SPDX-License-Identifier: Apache-2.0
"""Expected errors end a command with an exit status and one sentence."""

import pytest

from inception_jax.runtime.stopping import run_command
from inception_jax.storage.files import CheckpointError

HINT = 'keras is missing: pip install "inception_jax[bench]"'


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("no \x1b[31m such"), 2, "x: no \\x1b[31m such\n"),
        (OSError("disk"), 2, "x: disk\n"),
        (CheckpointError("params are damaged"), 74, "x: params are damaged\n"),
        (
            ModuleNotFoundError("none", name="keras"),
            2,
            f"x: {HINT}\n",
        ),
        (ModuleNotFoundError("libtpu: pip ..."), 2, "x: libtpu: pip ...\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted; all is kept.\n"),
    ],
)
def test_errors_give_a_status_and_a_sentence(error, status, said, capsys):
    def action():
        raise error

    assert run_command("x", action, if_interrupted="all is kept", extra="bench") == status
    assert capsys.readouterr().err == said


def test_success_is_0_and_unexpected_errors_pass_through(capsys):
    assert run_command("x", lambda: None, if_interrupted="") == 0
    assert capsys.readouterr() == ("", "")
    with pytest.raises(KeyError):
        run_command("x", lambda: {}["ours"], if_interrupted="")
