# SPDX-License-Identifier: Apache-2.0
"""Grids of comparable runs, for figures."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from experiments.residual_scaling.records import Record, Records, select
from experiments.residual_scaling.runs import DEFAULTS, PAPER_WIDTH, Run, describe_fields
from experiments.residual_scaling.verdicts import rate_label

# The axes of a grid: runs of one grid agree in all other fields.
AXES = ("width", "learning_rate", "scale", "seed")
# Fields that count as a single change.
FACTORS = (
    ("warmup", "warmup_steps", "warmup_rate"),
    ("learned_scale", "learned_scale_init"),
    ("init", "init_gain"),
    ("steps", "probe_every"),
)


@dataclass(frozen=True)
class Cell:
    """Runs that differ only in scale and seed."""

    run: Run  # any run of the cell
    records: Records

    @property
    def scales(self) -> list[float | None]:
        """Scales in decreasing order, those as published last."""
        return scales_in(self.records)

    def at(self, scale: float | None) -> Records:
        """Return the runs of one scale."""
        return select(self.records, scale=scale)


@dataclass(frozen=True)
class Grid:
    """Runs that differ only in width, learning rate, scale and seed."""

    records: Records
    all_scales: list[float | None]  # of all grids, so that each scale keeps its style

    @property
    def run(self) -> Run:
        """Any run of the grid."""
        return next(iter(self.records))

    @property
    def widths(self) -> list[int]:
        """Widths in increasing order."""
        return sorted({run.width for run in self.records})

    @property
    def rates(self) -> list[float]:
        """Learning rates in increasing order."""
        return sorted({run.learning_rate for run in self.records})

    @property
    def scales(self) -> list[float | None]:
        """Scales in decreasing order, those as published last."""
        return scales_in(self.records)

    def cell(self, width: int, rate: float) -> Cell | None:
        """Return the runs of a width and a learning rate, or None."""
        records = select(self.records, width=width, learning_rate=rate)
        return Cell(next(iter(records)), records) if records else None

    @property
    def rows(self) -> list[list[Cell | None]]:
        """Cells in one row for each learning rate and one column for each width."""
        return [[self.cell(width, rate) for width in self.widths] for rate in self.rates]

    @property
    def cells(self) -> list[Cell]:
        """All cells, by learning rate and then by width."""
        return [cell for row in self.rows for cell in row if cell]

    def __str__(self) -> str:
        run = replace(self.run, **{name: DEFAULTS[name] for name in AXES})
        always = {"data": run.data, "network": run.network, "depth": run.depth}
        return describe_fields(always | {"steps": run.steps} | run.changes)


def grids(records: Records) -> list[Grid]:
    """Return grids of runs with several scales, the largest first."""
    families: dict[Run, dict[Run, Record]] = {}
    for run, record in records.items():
        base = replace(run, **{name: DEFAULTS[name] for name in AXES})
        families.setdefault(base, {})[run] = record
    scales = scales_in(records)
    compared = [Grid(f, scales) for f in families.values() if len(scales_in(f)) > 1]
    return sorted(compared, key=lambda grid: -len(grid.records))


def main_grids(records: Records) -> list[Grid]:
    """Return the largest grid of each data set and network."""
    largest = {}
    for grid in grids(records):
        largest.setdefault((grid.run.data, grid.run.network), grid)
    return list(largest.values())


def scales_in(runs: Iterable[Run]) -> list[float | None]:
    """Return the scales of runs in decreasing order, those as published last."""
    return sorted({run.scale for run in runs}, key=lambda s: (s is None, -(s or 0.0)))


def single_change(setting: Run, base: Run) -> dict[str, Any]:
    """Return the fields in which `setting` differs if they count as one change, or {}."""
    names = [name for name in DEFAULTS if getattr(setting, name) != getattr(base, name)]
    together = any(set(names) <= set(factor) for factor in FACTORS)
    single = len(names) == 1 or together
    return {name: getattr(setting, name) for name in names} if single else {}


def scale_label(scale: float | None) -> str:
    """Return "unscaled", "scale 0.1" or "scales as published"."""
    if scale is None:
        return "scales as published"
    return "unscaled" if scale == 1 else f"scale {scale:.3g}"


def cell_label(run: Run) -> str:
    """Describe width and learning rate, and how they compare with the paper's."""
    wide = " (above 1000)" if run.width > PAPER_WIDTH else ""
    return f"width {run.width}{wide}\n{rate_label(run.learning_rate)}"
