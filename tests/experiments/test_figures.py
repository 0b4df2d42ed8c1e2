# SPDX-License-Identifier: Apache-2.0
"""Figures of the study show the records."""

from collections import Counter

import numpy as np
import pytest

from experiments.residual_scaling.figures import curves, draw, maps, settings
from experiments.residual_scaling.figures.curves import median_of
from experiments.residual_scaling.figures.style import line_styles
from experiments.residual_scaling.grids import grids, main_grids
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.records import test_accuracy as accuracy_of
from experiments.residual_scaling.runs import Run
from tests.experiments.made_up import made_up, small


@pytest.mark.parametrize("block", ["plain", "concat"])
def test_runs_without_residuals_can_be_drawn(block):
    records = made_up([Run(depth=2, steps=20, block=block)])
    assert all(picture.missing for picture in draw(records))


def test_runs_of_a_grid_differ_only_in_its_axes(records):
    sizes = [len(grid.records) for grid in grids(records)]
    assert sizes == sorted(sizes, reverse=True)
    # The default block with a missing seed in two cells; prototypes; long runs.
    assert sizes == [3 * 2 * 4 * 5 - 2, 4, 4]
    assert [grid.run.data for grid in main_grids(records)] == ["digits", "prototypes"]
    grid = grids(records)[0]
    assert grid.scales == [1.0, 0.3, 0.1, None]
    assert len(grid.cell(1024, 0.2).at(0.3)) == 4
    assert grid.cell(64, 0.3) is None


def test_a_scale_has_one_colour_in_all_figures(records):
    colours: dict[str, set] = {}
    for picture in draw(records):
        for axes in picture.figure.axes if picture.figure else []:
            for line in axes.lines:
                colours.setdefault(line.get_label(), set()).add(line.get_color())
    for scale in ("unscaled", "scale 0.3", "scale 0.1"):
        assert len(colours[scale]) == 1


def test_median_counts_a_seed_that_diverged_as_infinite():
    x = np.arange(4.0)
    lines = [(x, np.array([1, 1, 1, 1.0])), (x, np.array([2, 2, 2, 2.0]))]
    ended = (x[:2], np.array([3.0, np.nan]))
    np.testing.assert_array_equal(median_of([*lines, ended], [0, 0, 1])[1], [2, 2, 2, 2])
    two = [lines[0], ended, ended]
    np.testing.assert_array_equal(
        median_of(two, [False, True, True])[1], [3, np.nan, np.nan, np.nan]
    )
    # A seed that stopped early without diverging ends the median.
    steps, _ = median_of([*lines, (x[:3], np.ones(3))], [False] * 3)
    assert len(steps) == 3


def test_survival_is_the_kaplan_meier_estimate():
    records = small()
    unscaled = [r for run, r in records.items() if run.scale == 1.0]
    scaled = [r for run, r in records.items() if run.scale == 0.1]
    for record, death in zip(unscaled, (10, None), strict=True):
        record |= {"death_step": death, "loss": [1.0] * (20 if death else 15)}
    for record in scaled:
        record["death_step"] = None
    (axes,) = curves.survival(grids(records)[0]).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["unscaled"][:2] == [[0, 1], [10, 0.5]]
    assert lines["unscaled"][-1] == [20, 0.5]
    assert lines["scale 0.1"] == [[0, 1], [20, 1]]


def test_outcome_maps_count_the_seeds(records):
    grid = grids(records)[0]
    figure = maps.outcome_maps(grid)
    for row, bad in enumerate(
        ({"diverged", "dead", "half dead"}, set(Outcome) - {"healthy"})
    ):
        for column, scale in enumerate(grid.scales):
            panel = figure.axes[row * len(grid.scales) + column]
            shown = [text.get_text() for text in panel.texts]
            wanted = []
            for rate in grid.rates:
                for width in grid.widths:
                    runs = grid.cell(width, rate).at(scale).values()
                    count = sum(record["outcome"] in bad for record in runs)
                    wanted.append(f"{count}/{len(runs)}")
            assert shown == wanted


def test_curvature_is_drawn_against_its_limit(records):
    grid = grids(records)[0]
    figure = curves.curvature(grid)
    limits = [
        next(line for line in axes.lines if line.get_label().startswith("limit"))
        for axes in figure.axes
    ]
    heights = [line.get_ydata()[0] for line in limits]
    # 2 (1 + 0.9) / 0.045 and / 0.2, three widths each.
    assert heights == pytest.approx([84.44444] * 3 + [19.0] * 3)


def test_collapse_shows_every_residual_run_twice(records):
    figure = settings.collapse(records)
    residual = [run for run in records if run.block in ("v1", "v2")]
    for axes in figure.axes:
        points = np.concatenate([c.get_offsets() for c in axes.collections])
        assert len(points) == len(residual)
        labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        named = Counter(labels[round(y)] for _, y in points)
        assert named == Counter(records[run]["outcome"] for run in residual)


def test_forest_has_a_row_for_each_single_change(records):
    figure = settings.forest(records)
    panels = {axes.get_title(): axes for axes in figure.axes}
    fast = panels["failed\nwidth 256, learning rate 0.2 (accelerated)"]
    assert [tick.get_text() for tick in fast.get_yticklabels()] == [
        "unchanged",
        "scale 0.3",
        "scale 0.1",
        "scale as published",
        "clip norm 1",
        "warmup steps 20",
        "learned scale scalar, learned scale init 0",
        "pool norm before_relu",
        "optimizer momentum",
        "classifier rate 0.05",
    ]
    labels = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert "block plain" in labels
    assert not any("prototypes" in label for label in labels), (
        "a run of another grid is not a change"
    )


def test_accuracy_is_the_mean_of_the_seeds(records):
    grid = grids(records)[0]
    axes = settings.accuracy(grid).axes[0]
    drawn = [bar.lines[0].get_ydata()[0] for bar in axes.containers]
    cell = grid.cell(64, 0.045)
    means = [np.mean([*map(accuracy_of, cell.at(s).values())]) for s in grid.scales]
    assert drawn == pytest.approx(means)


def test_blocks_are_drawn_from_input_to_output(records):
    cell = maps.widest_and_fastest(grids(records)[0])
    assert (cell.run.width, cell.run.learning_rate) == (1024, 0.2)
    image = maps.dead_by_block(grids(records)[0]).axes[0].images[0].get_array()
    lives = [np.array(r["probes"]["dead"]) for r in cell.at(1.0).values()]
    start = np.mean([dead[1] for dead in lives], axis=0)
    np.testing.assert_allclose(image[:, 1], start)


def test_convergence_shows_medians_of_all_kinds_of_blocks(records):
    (axes,) = curves.convergence(records).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == {
        *("plain", "concat", "residual v1, unscaled", "residual v1, scale 0.3"),
        *("residual v1, scale 0.1", "residual v1, scales as published"),
    }
    plain = [r["probes"]["accuracy"] for a, r in records.items() if a.block == "plain"]
    shortest = min(map(len, plain))
    medians = np.median([accuracy[:shortest] for accuracy in plain], axis=0)
    np.testing.assert_allclose(lines["plain"], medians)


def test_lines_differ_without_colour():
    styles = line_styles(range(50))
    assert len({(str(x["linestyle"]), x["marker"]) for x in styles.values()}) == 50


def test_thinned_curves_are_drawn_over_their_steps():
    whole = small()
    thinned = {
        run: record | {"loss_every": 4, "loss": record["loss"][3::4]}
        for run, record in whole.items()
    }
    (grid,) = grids(thinned)
    figure = curves.loss_and_dead_of_single_cells(thinned)
    losses, *_ = figure.axes
    for line in losses.lines:
        np.testing.assert_array_equal(line.get_xdata(), [4, 8, 12, 16, 20])
    survival = curves.survival(grid)
    assert max(line.get_xdata().max() for line in survival.axes[0].lines) == 20
