# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, in order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from experiments.residual_scaling.figures import curves, maps, settings
from experiments.residual_scaling.grids import Grid, grids
from experiments.residual_scaling.records import Records


@dataclass(frozen=True)
class Picture:
    """A figure with its texts and the function that draws it, of a grid or of all runs."""

    name: str  # of its file, without ending
    title: str
    caption: str
    alt: str  # text alternative for readers who cannot see the figure
    needs: str = "runs of two scales at more than one width or learning rate"
    of_grid: Callable[[Grid], Figure] | None = None
    of_all: Callable[[Records], Figure | None] | None = None
    figure: Figure | None = None

    @property
    def missing(self) -> str:
        """The reason why the figure is left out, if it is."""
        return "" if self.figure else f"Left out: there are no {self.needs}."


PICTURES = (
    Picture(
        "loss_and_dead",
        "Loss and dead channels during training",
        "Thin lines are seeds, thick lines their median, which ends where half of the "
        "seeds have diverged. A dead channel is zero before the average pool at every "
        "position of every probe image. The paper's death would be a lower curve at 100 % "
        "and a constant loss.",
        "Line charts over training steps: the loss above, the share of dead channels "
        "below, for each width and learning rate; one line style for each scale.",
        of_grid=curves.loss_and_dead,
    ),
    Picture(
        "loss_and_dead_elsewhere",
        "Loss and dead channels with one other setting changed",
        "As above, for scales compared at a single width and learning rate.",
        "Line charts over training steps: the loss above, the share of dead channels "
        "below, for each comparison; one line style for each scale.",
        needs="scales compared at only one width and learning rate",
        of_all=curves.loss_and_dead_of_single_cells,
    ),
    Picture(
        "outcome_maps",
        "Failed and unstable runs by width and learning rate",
        "Share of the seeds that failed (above) and that were unstable (below). A "
        "threshold at 1000 filters would be a step between two columns; an instability "
        "that grows with both width and learning rate is a diagonal.",
        "Heat maps of learning rate against width, one for each scale, with counts in the "
        "cells.",
        of_grid=maps.outcome_maps,
    ),
    Picture(
        "survival",
        "Survival",
        "Kaplan-Meier estimates of the share of runs in which fewer than half of the "
        "channels are permanently dead, with 95 % bands. Surviving runs are censored at "
        "their last step; a death counts from the first probe that shows it.",
        "Step curves that fall from 100 % with every death, for each width and learning "
        "rate; one line style for each scale.",
        of_grid=curves.survival,
    ),
    Picture(
        "dead_by_block",
        "Dead channels by block",
        "Mean over the seeds, at the largest width and, for it, the highest learning "
        "rate. Channels that die first near the output suggest that the classifier is the "
        "cause. White: not finite.",
        "Two heat maps of the share of dead channels, block against training step: "
        "unscaled on the left, the smallest scale on the right.",
        of_grid=maps.dead_by_block,
    ),
    Picture(
        "propagation",
        "Stream and residuals by block",
        "Medians over the seeds, at the largest width and the highest learning rate. A "
        "stream that grows from block to block before the first step does so by "
        "initialisation. A residual as strong as its stream (ratio 1) overwrites it.",
        "Line charts over the blocks: root mean square and mean of the stream and the "
        "ratio of residual to stream, before training and at its end; one line style for "
        "each scale.",
        of_grid=maps.propagation,
    ),
    Picture(
        "feature_norm",
        "Norm of the classifier's input by width",
        "Medians over the seeds, with bands from the smallest to the largest value. A "
        "slope of 1 means a squared norm proportional to the width.",
        "Line charts of the squared feature norm against width, before training and at "
        "its end; one line style for each scale.",
        of_grid=settings.feature_norm,
    ),
    Picture(
        "curvature",
        "Curvature and the limit set by the learning rate",
        "Largest eigenvalue of the curvature with respect to the classifier's weights. "
        "Above the dotted line, steps with this learning rate and momentum overshoot and "
        "grow.",
        "Line charts of the largest eigenvalue over training steps with the limit as a "
        "dotted line, for each width and learning rate; one line style for each scale.",
        of_grid=curves.curvature,
    ),
    Picture(
        "collapse",
        "Outcome by curvature and by width",
        "Every residual run once in each panel, shifted slightly so that points do not "
        "overlap. If the number on the left determines the outcome, outcomes change near 1 "
        "at every scale, while on the right they differ between scales.",
        "Two scatter charts of the outcomes: against the control number, and against the "
        "width; one marker for each scale.",
        needs="residual runs",
        of_all=settings.collapse,
    ),
    Picture(
        "accuracy",
        "Test accuracy by scale",
        "Means over the seeds with 95 % intervals (Student's t); dots are seeds. The "
        "networks use moving averages of the batch statistics, as in inference.",
        "Points with error bars of the test accuracy for each scale, for each width and "
        "learning rate.",
        of_grid=settings.accuracy,
    ),
    Picture(
        "forest",
        "One change at a time",
        "Each row changes one setting of the unscaled runs in the first row; shares of the "
        "seeds with 95 % Wilson intervals. A remedy moves both squares to the left.",
        "Forest charts: share of failed and share of unstable runs with intervals, a row "
        "for each change.",
        needs="unscaled runs with one setting changed",
        of_all=settings.forest,
    ),
    Picture(
        "convergence",
        "Do residual connections speed up training?",
        'Accuracy on the probe images: median and range over the seeds. "plain" omits the '
        'sum, "concat" concatenates branches of equal cost.',
        "Line charts of accuracy over training steps: residual blocks of each scale, "
        "blocks without sum, and concatenated blocks.",
        needs="runs with plain or concatenated blocks and residual counterparts",
        of_all=curves.convergence,
    ),
)


def draw(records: Records) -> Iterator[Picture]:
    """Draw all figures; those drawn for several grids of runs are numbered."""
    large = [grid for grid in grids(records) if len(grid.cells) > 1]
    for picture in PICTURES:
        if picture.of_all:
            yield replace(picture, figure=picture.of_all(records))
        elif not large:
            yield picture
        else:
            for i, grid in enumerate(large, 1):
                name = picture.name if len(large) == 1 else f"{picture.name}_{i}"
                caption = f"{picture.caption} Runs: {grid}."
                figure = picture.of_grid(grid)
                yield replace(picture, name=name, caption=caption, figure=figure)
