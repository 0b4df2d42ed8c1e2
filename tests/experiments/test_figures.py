# SPDX-License-Identifier: Apache-2.0
"""The other figures of the report show the tables."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.runs import DEFAULTS
from experiments.residual_scaling.design.settings import FULL, STALE
from experiments.residual_scaling.judge.tables import probe_table, run_table, runs_of
from experiments.residual_scaling.judge.tests import judge_claims
from experiments.residual_scaling.show import figures
from experiments.residual_scaling.show.style import OTHER_COLOR, SCALE_COLORS
from inception_jax.training.stability import random_stability_limit, stability_limit
from tests.experiments.made_records import FULL_PLAN, REMEDIES, made_records


@pytest.fixture(scope="module")
def tables():
    records = made_records([*FULL_PLAN, *REMEDIES])
    runs = run_table(records)
    return runs, probe_table(records), judge_claims(runs, PLANS["full"].claims)


@pytest.fixture(scope="module")
def pictures(tables):
    return {picture.name: picture.figure for picture in figures.draw_others(*tables)}


def test_all_figures_are_drawn(pictures):
    assert list(pictures) == list(figures.TEXTS)


def test_the_claims_have_their_intervals_and_verdicts(pictures, tables):
    claims = tables[2]
    shares = claims[
        claims["endpoint"].isin(["dead_share", "only_zeros"]) & np.isfinite(claims["low"])
    ]
    (axes,) = pictures["claims"].axes
    intervals = [line.get_xdata() for line in axes.lines[::3]]
    assert np.allclose(intervals, shares[["low", "high"]])
    margins = [line.get_xdata()[0] for line in axes.lines[2::3]]
    assert margins == shares["margin"].tolist()
    assert [text.get_text() for text in axes.texts][1::2] == shares["verdict"].tolist()


def test_training_shows_every_run_and_the_median(pictures, tables):
    runs, probes, _ = tables
    top = pictures["training"].axes[0]
    assert top.get_title() == "Inception-ResNet-v2\nas drawn"
    unscaled = runs_of(runs, FULL)
    orange = [line for line in top.lines if line.get_color() == SCALE_COLORS[1.0]]
    assert len(orange) == len(unscaled) + 1
    dead = probes[probes["id"].isin(unscaled["id"])].groupby("step")["pool_dead"].median()
    np.testing.assert_allclose(orange[-1].get_ydata(), dead)
    limits = {axes.get_ylim() for axes in pictures["training"].axes}
    assert len(limits) == 1


def test_survival_ends_at_the_share_of_runs_that_have_not_collapsed(pictures, tables):
    panels = {axes.get_title(): axes for axes in pictures["survival"].axes}
    axes = panels["narrow network,\n8 replicas"]
    ends = [line.get_ydata()[-1] for line in axes.lines[::2]]
    stale = runs_of(tables[0], STALE)
    assert ends[0] == pytest.approx(stale["collapse_step"].isna().mean())
    assert ends[1] == 1
    # Runs without a collapse are followed to the end.
    assert axes.lines[2].get_xdata()[-1] == STALE.steps


def test_stability_compares_the_curvature_with_its_limit(pictures, tables):
    assert figures.limit_of(0.9, 1) == stability_limit(0.9)
    assert figures.limit_of(0.9, 8) == random_stability_limit(0.9, 8)
    row = runs_of(tables[0], FULL).iloc[0]
    expected = 0.045 * row["curvature_at_start"] / 3.8
    (axes,) = pictures["stability"].axes
    x = np.concatenate([c.get_offsets()[:, 0] for c in axes.collections])
    assert np.isclose(x, expected).any()


def test_every_remedy_is_one_row(pictures):
    left = pictures["remedies"].axes[0]
    names = [label.get_text() for label in left.get_yticklabels()]
    assert len(names) == len(set(names)) >= 20
    assert "no change" in names
    assert {"gradients clipped at norm 0.1", "scale 0.3", "momentum 0"} <= set(names)
    assert {"learned scale, initially 0", "1 replica", "20 replicas"} <= set(names)
    internal = {name.replace("_", " ") for name in DEFAULTS if "_" in name}
    internal -= {"learning rate", "learned scale"}  # also plain English
    assert not [name for name in names if "_" in name or any(i in name for i in internal)]
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert len(dots) == len(names)


def test_colours_of_remedies_are_those_of_their_scale(pictures):
    left = pictures["remedies"].axes[0]
    names = [label.get_text() for label in left.get_yticklabels()]
    colors = [line.get_color() for line in left.lines if line.get_marker() == "o"]
    by_name = dict(zip(names, colors, strict=True))
    for scale, color in SCALE_COLORS.items():
        assert by_name["no change" if scale == 1 else f"scale {scale}"] == color
    assert by_name["scale 0.5"] == OTHER_COLOR


def test_every_legend_and_label_is_inside_its_figure(pictures):
    for name, figure in pictures.items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
        for axes in figure.axes:
            boxes.append(axes.get_tightbbox(renderer))
        for box in boxes:
            inside = figure.bbox.padded(1)
            assert inside.containsx(box.x0), name
            assert inside.containsx(box.x1), name
            assert inside.containsy(box.y0), name
            assert inside.containsy(box.y1), name
        titles = [axes.title.get_window_extent(renderer) for axes in figure.axes]
        titles = [box for box in titles if box.width]
        assert not any(a.overlaps(b) for a, b in combinations(titles, 2)), name


def test_another_data_set_has_the_same_figures(pictures):
    records = made_records(PLANS["main"].on_data("folder:flowers").runs)
    runs, probes = run_table(records), probe_table(records)
    names = [p.name for p in figures.draw_others(runs, probes, judge_claims(runs, ()))]
    assert names == ["training", "survival", "stability"]


def test_figures_without_data_are_left_out():
    records = made_records(PLANS["quick"].runs)
    runs, probes = run_table(records), probe_table(records)
    names = [p.name for p in figures.draw_others(runs, probes, judge_claims(runs, ()))]
    assert names == ["training", "survival", "stability"]
