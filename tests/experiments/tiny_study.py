# SPDX-License-Identifier: Apache-2.0
"""The study's command with an additional plan, `tiny`, that trains in seconds.

`python -m tests.experiments.tiny_study --plan tiny` is a real run in a process of its own.
"""

from dataclasses import replace

from experiments.residual_scaling import __main__ as command
from experiments.residual_scaling.design.claims import Claim
from experiments.residual_scaling.design.plans import PLANS, Group, Plan, grid
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.run.study import Study

RUN = Run(
    width=8, depth=1, learning_rate=0.2, steps=6, batch_size=8, probe_every=2, scale=1.0
)
# Four settings of one shape, and one of another.
GROUPS = (
    Group(
        "Scales and rates?",
        grid(RUN, scale=(1.0, 0.1), learning_rate=(0.2, 0.1)),
        range(2),
    ),
    Group("And wider?", grid(RUN, width=(16,)), range(2)),
)
CLAIM = Claim(
    "a scale matters",
    "An unscaled network has more dead channels",
    RUN,
    replace(RUN, scale=0.1),
    ("scale 1", "scale 0.1"),
    range(2),
)
TINY = Plan("for tests", GROUPS, (CLAIM,), minutes=5.0, probe_images=32)


def with_runs(study: Study, *runs: Run, seeds: int = 1) -> Study:
    """The study with other runs."""
    groups = (Group("?", runs, range(seeds)),)
    return replace(study, plan=replace(study.plan, groups=groups))


def lasting(record: dict) -> dict:
    """Return the parts of a record that do not depend on the machine."""
    return {k: v for k, v in record.items() if k not in ("seconds", "devices")}


if __name__ == "__main__":
    PLANS["tiny"] = TINY
    raise SystemExit(command.main())
