# SPDX-License-Identifier: Apache-2.0
"""Options of the study: its plan, data, folder and time budget."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.residual_scaling.design.plans import PLANS, Plan
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.run.records import FILE


@dataclass(frozen=True)
class Options:
    """Train networks with and without residual scaling; test the claims of section 3.3."""

    # main: the paper's networks, 15 minutes on two CPU cores; quick: one small network, two
    # minutes; full: every claim, three hours; remedies: other changes of the network;
    # horizon: thousands of updates; gpu: larger images and more replicas.
    plan: str = "main"
    # Data set to train on instead of the digits: folder:DIR with one subfolder per class,
    # or a prepared data set of TFDS.
    data: str = "digits"
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
        plan = PLANS[self.plan].on_data(self.data)
        if self.seeds is not None:
            groups = tuple(
                replace(g, seeds=range(g.seeds.start, g.seeds.start + self.seeds))
                for g in plan.groups
            )
            plan = replace(plan, groups=groups)
        name = (
            "residual_scaling" if self.plan == "main" else f"residual_scaling_{self.plan}"
        )
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
        return self.plan.runs

    @property
    def seconds(self) -> float:
        """The time budget for training."""
        return 60 * (self.plan.minutes if self.minutes is None else self.minutes)

    @property
    def records_file(self) -> Path:
        """The file of records: one JSON line for each finished run."""
        return self.folder / FILE
