# SPDX-License-Identifier: Apache-2.0
"""A model folder to export."""

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture
def folder(monkeypatch, tmp_path: Path) -> Path:
    """Save a model folder of a tiny network; one of its arrays is a scalar."""
    from inception_jax.config import AblationConfig
    from inception_jax.models.zoo import SPECS
    from inception_jax.weights.model import Model, save
    from tests.models.tiny import one_block
    from tests.weights.filled import CARD, filled

    monkeypatch.setitem(SPECS, "tiny", one_block())
    scaled = AblationConfig(learned_scale="scalar", learned_scale_init=0.5)
    card = replace(CARD, ablation=scaled)
    save(tmp_path / "model", card, filled(Model(card).shapes))
    return tmp_path / "model"
