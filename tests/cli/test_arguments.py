# SPDX-License-Identifier: Apache-2.0
"""The model that `predict` and `features` load."""

import pytest

from inception_jax.cli.arguments import load_model
from inception_jax.models.zoo import SPECS
from tests.models.tiny import one_block
from tests.saved import CARD, save_tiny


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())


def test_the_only_model_need_not_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path))
    with pytest.raises(ValueError, match=r"--model is missing; .* it holds no model\."):
        load_model(None, "ema", None)
    save_tiny(tmp_path / "mine")
    name, model, variables = load_model(None, "ema", None)
    assert (name, model.card) == ("mine", CARD)
    assert variables["params"]["Logits"]["kernel"].shape == (8, 6)
    assert capsys.readouterr().err == "Using the model mine.\n"
    save_tiny(tmp_path / "other", class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"--model is missing; .* holds mine, other\."):
        load_model(None, "ema", None)
    assert load_model("other", "ema", None)[1].card.class_names == ("a", "b")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="one set of weights"):
        load_model("other", "raw", None)
    with pytest.raises(ValueError, match="one set of weights"):
        load_model("other", "ema", 3)
