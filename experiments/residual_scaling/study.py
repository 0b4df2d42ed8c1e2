# SPDX-License-Identifier: Apache-2.0
"""What of a plan is done, where, and in how much time."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.residual_scaling.plans import PLANS, Plan
from experiments.residual_scaling.records import Records, records_file, settings_in
from experiments.residual_scaling.runs import Run


@dataclass(frozen=True)
class Options:
    """Train residual networks with and without scaling, and judge the paper's claims."""

    # quick, two minutes and no verdict; cpu, the main job; cpu_more, which goes on with the
    # cures of the literature and the paper's horizon; gpu, the paper's widths.
    plan: str = "cpu"
    # Minutes of training; what does not fit is left out, the least important first, and
    # the same command goes on with it. Default: the plan's.
    minutes: float | None = None
    # Repetitions of every setting; default: the plan's.
    seeds: int | None = None
    # Folder for everything this writes; default: runs/residual_scaling, for the plans
    # quick and gpu with that name behind it.
    workdir: Path | None = None
    # Folder of prepared data sets; default: TFDS's own.
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {self.plan!r}.")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be > 0, got {self.minutes}.")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds must be 1 or more, got {self.seeds}.")

    @property
    def study(self) -> "Study":
        """What these options ask for."""
        plan = PLANS[self.plan]
        if self.seeds is not None:
            groups = tuple(replace(group, seeds=self.seeds) for group in plan.groups)
            plan = replace(plan, groups=groups)
        name = "residual_scaling" if self.plan == "cpu" else f"residual_scaling_{self.plan}"
        return Study(plan, self.workdir or Path("runs") / name, self.minutes, self.data_dir)


@dataclass(frozen=True)
class Study:
    """A plan, its folder, and the minutes it may take; None: the plan's own."""

    plan: Plan
    folder: Path
    minutes: float | None = None
    data_dir: str | None = None

    @property
    def runs(self) -> list[Run]:
        """All runs, the most important first, each once."""
        return list(dict.fromkeys(run for g in self.plan.groups for run in g.runs))

    @property
    def seconds(self) -> float:
        """Time that training may take."""
        return 60 * (self.plan.minutes if self.minutes is None else self.minutes)

    @property
    def records_file(self) -> Path:
        """The file of records: one JSON line for each finished run."""
        return records_file(self.folder)

    def left_out(self, records: Records) -> list[str]:
        """What of the plan is not on record, group by group, in words."""
        words = []
        for group in self.plan.groups:
            missing = [run for run in group.runs if run not in records]
            if missing:
                settings = "; ".join(run.description for run in settings_in(missing))
                words.append(
                    f"{group.question} {len(missing)} of {len(group.runs)} runs: {settings}"
                )
        return words
