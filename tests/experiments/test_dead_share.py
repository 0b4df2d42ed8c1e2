# SPDX-License-Identifier: Apache-2.0
"""The figure of dead channels against width has a dot for every comparable run."""

from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from experiments.residual_scaling.design.settings import (
    FULL,
    HARMLESS,
    NARROW,
    PUBLISHED,
    STALE,
    V1,
    V4,
)
from experiments.residual_scaling.judge.tables import run_table
from experiments.residual_scaling.show import dead_share
from experiments.residual_scaling.show.style import NETWORKS
from tests.experiments.made_records import made_record

SHOWN = {
    replace(NARROW, width=64): 0.1,
    replace(NARROW, width=64, seed=1): 0.15,
    replace(FULL, width=536, scale=0.1): 0.2,
    FULL: 0.98,
    replace(FULL, steps=40, seed=3): 0.97,  # of the main job
    V4: 0.0,
    STALE: 0.96,
    replace(STALE, replicas=20): 1.0,
    replace(NARROW, learning_rate=0.2, scale=0.3): 0.3,
}
NOT_SHOWN = [
    HARMLESS,
    replace(NARROW, clip_norm=1.0),
    replace(NARROW, warmup_steps=80),
    replace(NARROW, momentum=0.0),
    replace(NARROW, activation="leaky_relu"),
    replace(NARROW, replicas=2),
    replace(STALE, stagger=15),
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
        "learning rate 0.045,\n8 replicas (stale gradients)\nhollow: 20 replicas": [
            0.96,
            1.0,
        ],
        "learning rate 0.2": [0.3],
    }
    widths = [1536, 64, 64, 536, 2144, 2144]
    for (_, x), width in zip(dots["learning rate 0.045"], widths, strict=True):
        assert width <= x < width * 1.34, "a dot is too far from its width"
        assert (x > 1000) == (width > 1000)


def test_dots_of_two_seeds_do_not_hide_each_other():
    runs = [replace(NARROW, seed=k, scale=s) for k in range(10) for s in (1.0, 0.3, 0.1)]
    figure = dead_share.draw(run_table({run: made_record(run, 0.5) for run in runs}))
    (panel,) = figure.axes
    x = [xy[0] for c in panel.collections for xy in c.get_offsets().tolist()]
    assert len({round(value, 2) for value in x}) == len(runs)


def test_full_networks_are_named_and_nothing_is_cut_off_or_too_small():
    runs = [FULL, V1, V4, PUBLISHED, NARROW, STALE, replace(FULL, learning_rate=0.2)]
    runs += [replace(NARROW, scale=s) for s in (0.5, 0.3, 0.1)]
    figure = dead_share.draw(run_table({run: made_record(run, 0.5) for run in runs}))
    assert figure.get_figwidth() * 96 <= 900
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    names = [text for panel in figure.axes for text in panel.texts]
    labels = [text for text in names if "Inception" in text.get_text()]
    words = {" ".join(text.get_text().split()).replace(",", "") for text in labels}
    assert words == {
        NETWORKS[run.network][0].replace(",", "") for run in (FULL, V1, V4, PUBLISHED)
    }
    boxes = [Text.get_window_extent(text, renderer) for text in labels]  # without lines
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    (legend,) = figure.legends
    for box in (*boxes, legend.get_window_extent(renderer)):
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)
    legend_words = [text.get_text() for text in legend.get_texts()]
    assert legend_words[:4] == [
        *("scale 1", "scale 0.3", "scale 0.1", "another scale or no residuals")
    ]
    ticks = [label for axes in figure.axes for label in axes.get_xticklabels()]
    assert min(text.get_fontsize() for text in (*names, *legend.get_texts(), *ticks)) >= 9


def test_other_data_sets_have_the_figure_too():
    runs = [replace(run, data="folder:flowers") for run in (FULL, NARROW)]
    table = run_table({run: made_record(run, 0.5) for run in runs})
    (panel,) = dead_share.draw(table).axes
    assert sum(len(c.get_offsets()) for c in panel.collections) == 2
    assert set(table["data"]) == {"folder:flowers"}


@pytest.mark.parametrize("runs", [[HARMLESS], [replace(NARROW, learning_rate=0.1)]])
def test_without_comparable_runs_there_is_no_figure(runs):
    table = run_table({run: made_record(run, 0.5) for run in runs})
    assert dead_share.draw(table) is None
