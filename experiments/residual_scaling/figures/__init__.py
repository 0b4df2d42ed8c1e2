# SPDX-License-Identifier: Apache-2.0
"""The pictures of the study, in the order of the report."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.residual_scaling.figures import curves, maps, settings
from experiments.residual_scaling.grids import Grid, grids
from experiments.residual_scaling.records import Records


@dataclass(frozen=True)
class Picture:
    """A picture, or why it is not there."""

    name: str  # of its file, without ending
    title: str
    caption: str  # what to see
    alt: str  # what is drawn, for those who do not see it
    figure: Figure | None
    missing: str = ""


@dataclass(frozen=True)
class Kind:
    """What can be drawn of the runs."""

    name: str
    title: str
    caption: str
    alt: str
    needs: str
    of_grid: Callable[[Grid], Figure] | None = None
    of_all: Callable[[Records], Figure | None] | None = None


SEVERAL = "runs of two scales at more than one width or learning rate"

KINDS = (
    Kind(
        "loss_and_dead",
        "Loss and dead channels over the steps",
        "Thin lines are seeds, thick lines their median; it ends where half of the seeds "
        "have diverged. A dead channel is zero before the average pool at every position "
        "of every probe image. The paper's death is the lower curve at 100 % while the "
        "loss stands still.",
        "Line charts over training steps: the loss above, the share of dead channels "
        "below, for each width and learning rate; one line style for each scale.",
        SEVERAL,
        of_grid=curves.loss_and_dead,
    ),
    Kind(
        "loss_and_dead_elsewhere",
        "Loss and dead channels where one thing else was changed",
        "As above, for scales compared at a single width and learning rate.",
        "Line charts over training steps: the loss above, the share of dead channels "
        "below, for each comparison; one line style for each scale.",
        "scales compared at one width and learning rate only",
        of_all=curves.loss_and_dead_of_single_cells,
    ),
    Kind(
        "outcome_maps",
        "Who dies, who is unstable",
        "Seeds half dead or worse (above) and unstable in any way (below), of all. If "
        "there were a threshold at 1000 filters, a step would run upwards between two "
        "columns; trouble that grows with width and rate makes a diagonal.",
        "Heat maps of learning rate against width, one for each scale, with counts in the "
        "cells.",
        SEVERAL,
        of_grid=maps.outcome_maps,
    ),
    Kind(
        "survival",
        "Survival",
        "Kaplan-Meier estimates of the share of runs not yet half dead for good, with 95 % "
        "bands; runs that lived are censored at their last step, a death has the step of "
        "the first probe that saw it. The question is whether death comes early or after "
        "a long time in good health.",
        "Step curves that fall from 100 % with every death, for each width and learning "
        "rate; one line style for each scale.",
        SEVERAL,
        of_grid=curves.survival,
    ),
    Kind(
        "dead_by_block",
        "Where channels die",
        "Mean over the seeds, at the greatest width and, there, the highest learning "
        "rate. Channels that die from the output towards the input point at the "
        "classifier as the trigger. White: not finite.",
        "Two heat maps of the share of dead channels, block against training step: "
        "unscaled on the left, the smallest scale on the right.",
        SEVERAL,
        of_grid=maps.dead_by_block,
    ),
    Kind(
        "propagation",
        "The signal through the blocks",
        "Medians over the seeds, in the same cell. Does the stream grow from block to "
        "block before the first step? A residual as strong as its stream (ratio 1) "
        "overwrites it.",
        "Line charts over the blocks: root mean square and mean of the stream and the "
        "ratio of residual to stream, before training and at its end; one line style for "
        "each scale.",
        SEVERAL,
        of_grid=maps.propagation,
    ),
    Kind(
        "feature_norm",
        "The features that the classifier sees, over the width",
        "Medians, from the smallest to the largest as a band. Slope 1 in this picture is a "
        "squared norm in proportion to the width.",
        "Line charts of the squared feature norm against width, before training and at "
        "its end; one line style for each scale.",
        SEVERAL,
        of_grid=settings.feature_norm,
    ),
    Kind(
        "curvature",
        "Curvature over time and the limit of the learning rate",
        "Largest eigenvalue of the curvature with respect to the classifier's weights. "
        "Above the dotted line, steps of this learning rate and momentum overshoot and "
        "grow.",
        "Line charts of the largest eigenvalue over training steps with the limit as a "
        "dotted line, for each width and learning rate; one line style for each scale.",
        SEVERAL,
        of_grid=curves.curvature,
    ),
    Kind(
        "collapse",
        "One number for all runs, or the width?",
        "Every residual run once in each panel, shifted a little so that points do not "
        "hide one another. If the number on the left decides, outcomes change near 1 for "
        "all scales alike; on the right, scales should then lie far apart.",
        "Two scatter charts of the outcomes: against the control number, and against the "
        "width; one marker for each scale.",
        "residual runs",
        of_all=settings.collapse,
    ),
    Kind(
        "accuracy",
        "Accuracy against scale",
        "Means over the seeds with 95 % intervals (Student's t); dots are the seeds. "
        "Moving averages of the batch statistics, as one would use the network.",
        "Points with error bars of the test accuracy for each scale, for each width and "
        "learning rate.",
        SEVERAL,
        of_grid=settings.accuracy,
    ),
    Kind(
        "forest",
        "One change at a time",
        "Each row changes one thing of the unscaled runs in the first; shares of seeds "
        "with 95 % Wilson intervals. A cure moves both squares to the left.",
        "Forest charts: share half dead or worse and share unstable with intervals, a row "
        "for each change.",
        "unscaled runs with one thing changed",
        of_all=settings.forest,
    ),
    Kind(
        "convergence",
        "Do residual connections speed up the training?",
        'Accuracy on the probe images: median and range over the seeds. "plain" leaves '
        'the sum out, "concat" concatenates branches of the same cost.',
        "Line charts of accuracy over training steps: residual blocks of each scale, "
        "blocks without sum, and concatenated blocks.",
        "runs with plain or concat blocks and residual partners",
        of_all=curves.convergence,
    ),
)


def draw(records: Records) -> Iterator[Picture]:
    """All pictures; a kind that has a picture for each grid of runs is numbered."""
    large = [grid for grid in grids(records) if len(grid.cells) > 1]
    for kind in KINDS:
        words = kind.title, kind.caption, kind.alt
        missing = f"Left out: no {kind.needs} are on record."
        if kind.of_all:
            figure = kind.of_all(records)
            yield Picture(kind.name, *words, figure, "" if figure else missing)
            continue
        if not large:
            yield Picture(kind.name, *words, None, missing)
        for i, grid in enumerate(large, 1):
            caption = f"{kind.caption} Runs: {grid}."
            name = kind.name if len(large) == 1 else f"{kind.name}_{i}"
            yield Picture(name, kind.title, caption, kind.alt, kind.of_grid(grid))
