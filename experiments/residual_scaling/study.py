# SPDX-License-Identifier: Apache-2.0
"""Options of the study: its plan, folder and time budget."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.residual_scaling.plans import PLANS, Plan
from experiments.residual_scaling.records import Records, records_file, settings_in
from experiments.residual_scaling.runs import Run


@dataclass(frozen=True)
class Options:
    """Train residual networks with and without scaling and test the paper's claims."""

    # quick: two minutes, no verdicts; cpu: the main study; cpu_more: also remedies of later
    # papers and longer runs; full: the paper's networks; gpu: the paper's widths.
    plan: str = "cpu"
    # Minutes of training. Runs are trained in order of importance, and each one that
    # would not finish in time is left out; repeat the command to train them.
    minutes: Annotated[float | None, arg(help_behavior_hint="(default: the plan's)")] = None
    # Number of seeds for every setting.
    seeds: Annotated[int | None, arg(help_behavior_hint="(default: the plan's)")] = None
    # Folder for all output.
    workdir: Annotated[
        Path | None, arg(help_behavior_hint="(default: runs/residual_scaling[_PLAN])")
    ] = None
    # Folder of prepared data sets.
    data_dir: Annotated[str | None, arg(help_behavior_hint="(default: TFDS's)")] = None

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {self.plan!r}.")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be > 0, got {self.minutes}.")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds must be 1 or more, got {self.seeds}.")

    @property
    def study(self) -> "Study":
        """The study that these options describe."""
        plan = PLANS[self.plan]
        if self.seeds is not None:
            groups = tuple(replace(group, seeds=self.seeds) for group in plan.groups)
            plan = replace(plan, groups=groups)
        name = "residual_scaling" if self.plan == "cpu" else f"residual_scaling_{self.plan}"
        return Study(plan, self.workdir or Path("runs") / name, self.minutes, self.data_dir)


@dataclass(frozen=True)
class Study:
    """A plan, its folder and its time budget, by default the plan's."""

    plan: Plan
    folder: Path
    minutes: float | None = None
    data_dir: str | None = None

    @property
    def runs(self) -> list[Run]:
        """All runs without duplicates, the most important first."""
        return list(dict.fromkeys(run for g in self.plan.groups for run in g.runs))

    @property
    def seconds(self) -> float:
        """The time budget for training."""
        return 60 * (self.plan.minutes if self.minutes is None else self.minutes)

    @property
    def records_file(self) -> Path:
        """The file of records: one JSON line for each finished run."""
        return records_file(self.folder)

    def left_out(self, records: Records) -> list[str]:
        """Describe the planned runs that are not recorded, one line per group."""
        lines = []
        for group in self.plan.groups:
            missing = [run for run in group.runs if run not in records]
            if missing:
                settings = "; ".join(run.description for run in settings_in(missing))
                lines.append(
                    f"{group.question} {len(missing)} of {len(group.runs)} runs: {settings}"
                )
        return lines
