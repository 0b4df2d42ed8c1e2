# SPDX-License-Identifier: Apache-2.0
"""The figure of dead channels against width has a dot for every run."""

from dataclasses import asdict, replace

import pandas as pd
import pytest

from experiments.residual_scaling import dead_share
from experiments.residual_scaling.plans import FULL, STALE, STALE_FULL
from experiments.residual_scaling.runs import Run


@pytest.fixture
def tables(tmp_path):
    """Tables with runs of the figure, and some that do not belong in it."""
    narrow = [Run(width=64), Run(width=256, learning_rate=0.2, scale=0.1)]
    others = [Run(clip_norm=1.0), Run(depth=4), Run(steps=400), Run(learning_rate=0.02)]
    rows = [asdict(run) | {"final_pool_dead": 0.5} for run in narrow + others]
    pd.DataFrame(rows).to_csv(tmp_path / "cpu.csv", index=False)
    full = [FULL, replace(FULL, scale=0.1, width=536), STALE, STALE_FULL]
    rows = [
        asdict(run) | {"final_pool_dead": 0.75}
        for run in [*full, replace(STALE, replicas=1)]
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "full.csv", index=False)
    return tmp_path / "cpu.csv", tmp_path / "full.csv"


def test_every_run_of_the_figure_is_one_dot(tables):
    figure = dead_share.draw(dead_share.read_tables(*tables))
    dots = {}
    for panel in figure.axes:
        points = [xy for c in panel.collections for xy in c.get_offsets().tolist()]
        dots[panel.get_title()] = sorted((round(x), y) for x, y in points)
    assert dots == {
        "learning rate 0.045": [(64, 0.5), (round(536 * 1.1**2), 0.75), (2144, 0.75)],
        "learning rate 0.045, 8 replicas": [(256, 0.75)],
        "learning rate 0.2": [(round(256 * 1.1**2), 0.5)],
    }


def test_missing_tables_are_an_error(tmp_path, capsys):
    assert dead_share.main(tmp_path / "a", tmp_path / "b", tmp_path / "c.png") == 2
    assert "a'" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()
