# SPDX-License-Identifier: Apache-2.0
"""The figure of dead channels against width has a dot for every comparable run."""

from dataclasses import replace

import pytest

from experiments.residual_scaling.design.settings import FULL, HARMLESS, NARROW, STALE, V4
from experiments.residual_scaling.judge.tables import run_table
from experiments.residual_scaling.show import dead_share
from tests.experiments.made_records import made_record

SHOWN = {
    replace(NARROW, width=64): 0.1,
    replace(NARROW, width=64, seed=1): 0.15,
    replace(FULL, width=536, scale=0.1): 0.2,
    FULL: 0.98,
    replace(FULL, steps=40, seed=3): 0.97,  # of the main job
    V4: 0.0,
    STALE: 0.96,
    replace(NARROW, learning_rate=0.2, scale=0.3): 0.3,
}
NOT_SHOWN = [
    HARMLESS,
    replace(NARROW, clip_norm=1.0),
    replace(NARROW, depth=4),
    replace(NARROW, steps=2000),
    replace(NARROW, data="endless"),
    replace(FULL, image_size=149),
    replace(FULL, init_gain=0.1),
    replace(NARROW, pool_norm="before_relu"),
]


def test_every_comparable_run_is_one_dot_and_others_are_none():
    records = {run: made_record(run, dead) for run, dead in SHOWN.items()}
    records |= {run: made_record(run, 0.5) for run in NOT_SHOWN}
    figure = dead_share.draw(run_table(records))
    dots = {}
    for panel in figure.axes:
        points = [xy for c in panel.collections for xy in c.get_offsets().tolist()]
        dots[panel.get_title()] = sorted((round(y, 3), x) for x, y in points)
    shares = {title: [y for y, _ in points] for title, points in dots.items()}
    assert shares == {
        "learning rate 0.045": [0.0, 0.1, 0.15, 0.2, 0.97, 0.98],
        "learning rate 0.045, 8 replicas": [0.96],
        "learning rate 0.2": [0.3],
    }
    widths = [1536, 64, 64, 536, 2144, 2144]
    for (_, x), width in zip(dots["learning rate 0.045"], widths, strict=True):
        assert width <= x < width * 1.25, "a dot is too far from its width"
        assert (x > 1000) == (width > 1000)


def test_dots_of_two_seeds_do_not_hide_each_other():
    runs = [replace(NARROW, seed=k, scale=s) for k in range(10) for s in (1.0, 0.3, 0.1)]
    figure = dead_share.draw(run_table({run: made_record(run, 0.5) for run in runs}))
    (panel,) = figure.axes
    x = [xy[0] for c in panel.collections for xy in c.get_offsets().tolist()]
    assert len({round(value, 2) for value in x}) == len(runs)


@pytest.mark.parametrize("runs", [[HARMLESS], [replace(NARROW, learning_rate=0.1)]])
def test_without_comparable_runs_there_is_no_figure(runs):
    table = run_table({run: made_record(run, 0.5) for run in runs})
    assert dead_share.draw(table) is None
