# SPDX-License-Identifier: Apache-2.0
"""What `predict` and `features` share: which model, how far, what could not be read."""

import io
import sys

import pytest

from inception_jax.cli.images import Watch, load_model
from inception_jax.models.zoo import SPECS
from tests.models.tiny import one_block
from tests.saved import CARD, save_tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())


def test_the_only_model_need_not_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path))
    with pytest.raises(ValueError, match=r"--model is missing, and in .* there is none"):
        load_model(None, "ema", None)
    save_tiny(tmp_path / "mine")
    name, model, variables = load_model(None, "ema", None)
    assert (name, model.card) == ("mine", CARD)
    assert variables["params"]["Logits"]["kernel"].shape == (8, 6)
    assert capsys.readouterr().err == "The model is mine.\n"
    save_tiny(tmp_path / "other", class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"there are mine, other; expected one\."):
        load_model(None, "ema", None)
    assert load_model("other", "ema", None)[1].card.class_names == ("a", "b")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="one set of weights"):
        load_model("other", "raw", None)
    with pytest.raises(ValueError, match="one set of weights"):
        load_model("other", "ema", 3)


def test_progress_is_said_on_a_terminal(monkeypatch):
    clock = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr("inception_jax.cli.images.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    watch = Watch(4000)
    watch.batch(1000, [])
    watch.batch(999, ["'\x1b[31m' cannot be read."])
    assert terminal.getvalue().split("\r\033[K")[1:] == [
        "1,000 of 4,000 images",
        # The first batch, in which programs are compiled, counts for no rate.
        "inception-jax: '\\x1b[31m' cannot be read.\n"
        "2,000 of 4,000 images, 500.0/s, 4 s left",
    ]
    watch.batch(2000, [])
    assert terminal.getvalue().endswith("4 s left\r\033[K")


def test_elsewhere_only_faults_are(monkeypatch, capsys):
    watch = Watch(3)
    watch.batch(2, [])
    watch.end()  # which does not exit
    assert capsys.readouterr() == ("", "")
    watch.batch(0, ["'x' cannot be read."])
    assert watch.faults == ["'x' cannot be read."]
    with pytest.raises(SystemExit) as status:
        watch.end()
    assert status.value.code == 1
    assert capsys.readouterr().err == (
        "inception-jax: 'x' cannot be read.\n"
        "inception-jax: 1 of 3 images could not be read and were left out.\n"
    )
