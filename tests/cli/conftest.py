# SPDX-License-Identifier: Apache-2.0
"""A saved model for the commands that apply one to images."""

from pathlib import Path

import pytest

from inception_jax.models.zoo import SPECS
from tests.models.tiny import one_block
from tests.saved import save_tiny


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a saved model of the network "tiny"."""
    monkeypatch.setitem(SPECS, "tiny", one_block())
    save_tiny(tmp_path / "model")
    return tmp_path / "model"
