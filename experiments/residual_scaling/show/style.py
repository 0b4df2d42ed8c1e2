# SPDX-License-Identifier: Apache-2.0
"""Style of the figures: readable for the colour-blind and in greyscale."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.residual_scaling.grids import Cell, Grid, cell_label

# Okabe and Ito's palette for the colour-blind; dashes and markers distinguish lines without
# colour. The lengths of the three lists are pairwise coprime, so combinations repeat late.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 3)), (0, (8, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
LineStyle = dict[str, Any]  # colour, dashes and marker, as matplotlib takes them


def line_styles(values: Sequence[Any]) -> dict[Any, LineStyle]:
    """Return a distinct combination of colour, dashes and marker for each value."""
    styles = zip(values, cycle(COLORS), cycle(DASHES), cycle(MARKERS), strict=False)
    return {
        value: {"color": color, "linestyle": dashes, "marker": marker}
        for value, color, dashes, marker in styles
    }


def panels(
    rows: int, columns: int, width: float = 3.4, height: float = 2.5, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """Create a figure of panels of a size in inches, with room for a legend."""
    size = (max(width * columns, 5) + 0.6, height * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def grid_panels(
    grid: Grid, ylabel: str, **options: Any
) -> tuple[Figure, list[tuple[Axes, Cell]]]:
    """Create a figure with a titled panel for each cell of a grid; return both."""
    rows = grid.rows
    figure, axes = panels(len(rows), len(rows[0]), **options)
    cell_panels = []
    for line, row in zip(axes, rows, strict=True):
        line[0].set_ylabel(ylabel, fontsize=9)
        for panel, cell in zip(line, row, strict=True):
            if cell is None:
                panel.set_axis_off()
                continue
            panel.set_title(cell_label(cell.run), fontsize=9)
            light_grid(panel)
            cell_panels.append((panel, cell))
    return figure, cell_panels


def percent(axes: Axes) -> None:
    """Show the vertical axis as a percentage from 0 to 100."""
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def finish(figure: Figure) -> Figure:
    """Add one legend below the figure for the labels of all panels."""
    labelled = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if labelled:
        figure.legend(
            labelled.values(),
            labelled.keys(),
            loc="outside lower center",
            ncols=min(len(labelled), max(2, int(figure.get_figwidth() // 2.2))),
            fontsize=9,
            handlelength=3.2,
        )
    return figure


def light_grid(axes: Axes) -> None:
    """Draw thin grid lines behind the data, and small tick labels."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8)
