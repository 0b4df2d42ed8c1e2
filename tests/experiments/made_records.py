# SPDX-License-Identifier: Apache-2.0
"""Made-up records of runs and the verdicts that follow from them."""

from dataclasses import replace

from experiments.residual_scaling.claims import judge
from experiments.residual_scaling.outcomes import Outcome
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.verdicts import Verdict

DEAD, HALF, CHANCE = Outcome.DEAD, Outcome.HALF_DEAD, Outcome.CHANCE
IMPAIRED, HEALTHY, DIVERGED = Outcome.IMPAIRED, Outcome.HEALTHY, Outcome.DIVERGED
EIGHT = Run(width=2048)  # 8 of 8 against 0 of 8 is significant after Holm


def record(outcome=HEALTHY, *, death=None, accuracy=0.9, curvature=1.0, reached=None):
    """A record with `outcome`; `reached` is the step at which accuracy is 95 %."""
    dead = {DEAD: 1.0, HALF: 0.7}.get(outcome, 0.0)
    return {
        "outcome": str(outcome),
        "death_step": 20 if death is None and outcome in (DEAD, HALF) else death,
        "recovered": False,
        "test": {"top1_sum": 100 * accuracy, "count": 100.0},
        "probes": {
            "step": [0, 10, 20, 30, 40],
            "pool_dead": [0.0, dead, dead, dead, dead],
            "accuracy": [
                0.95 if reached and s >= reached else 0.1 for s in range(0, 50, 10)
            ],
            "curvature": [curvature, None, None, None, None],
        },
    }


def repeat(run: Run, count: int, seeds: int = 8, bad=HALF, good=HEALTHY, **more):
    """`seeds` repetitions of a run: `count` with outcome `bad`, the rest `good`."""
    return {
        replace(run, seed=seed): record(bad if seed < count else good, **more)
        for seed in range(seeds)
    }


def rows(records, number: int, setting: str = "") -> list[Verdict]:
    return [v for v in judge(records) if v.number == number and setting in v.setting]


def only(records, number: int, setting: str = "") -> Verdict:
    found = rows(records, number, setting)
    assert len(found) == 1, found
    return found[0]
