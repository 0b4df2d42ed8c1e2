# SPDX-License-Identifier: Apache-2.0
"""Plans: the runs that one command trains, in order of importance.

To add a run, add a change of a setting to one of the groups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from experiments.residual_scaling.design.claims import (
    CLAIMS,
    MAIN_CLAIMS,
    Claim,
)
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.design.settings import (
    FULL,
    HARMLESS,
    LATE,
    NARROW,
    PUBLISHED,
    SHORTER,
    STALE,
    V1,
    V4,
)


@dataclass(frozen=True)
class Group:
    """Settings that answer a question together, each repeated with every seed."""

    question: str
    settings: tuple[Run, ...]
    seeds: range

    @property
    def runs(self) -> list[Run]:
        """Runs seed by seed, so that an unfinished group has complete seeds."""
        return [replace(setting, seed=k) for k in self.seeds for setting in self.settings]


@dataclass(frozen=True)
class Plan:
    """Groups of runs, the most important first, and the claims that they test."""

    description: str
    groups: tuple[Group, ...]
    claims: tuple[Claim, ...]
    minutes: float  # time budget
    probe_images: int = 64

    @property
    def runs(self) -> list[Run]:
        """All runs without duplicates, the most important first."""
        return list(dict.fromkeys(run for group in self.groups for run in group.runs))

    def on_data(self, data: str) -> "Plan":
        """Return the plan with another data set instead of the digits."""
        groups = (
            replace(group, settings=tuple(run.on_data(data) for run in group.settings))
            for group in self.groups
        )
        claims = tuple(claim.on_data(data) for claim in self.claims)
        return replace(self, groups=tuple(groups), claims=claims)


def grid(base: Run, **values: Sequence[Any]) -> tuple[Run, ...]:
    """Return `base` changed to every combination of the values of fields."""
    combinations = product(*values.values())
    return tuple(
        replace(base, **dict(zip(values, chosen, strict=True))) for chosen in combinations
    )


def changed(bases: Iterable[Run], *changes: dict[str, Any]) -> tuple[Run, ...]:
    """Return each of the bases with each of the changes."""
    return tuple(replace(base, **change) for change in changes for base in bases)


def _claim_groups(claims: Iterable[Claim]) -> tuple[Group, ...]:
    return tuple(
        Group(claim.text, (claim.first, claim.second), claim.seeds) for claim in claims
    )


BOTH = (1.0, 0.1)
ALL_SCALES = (1.0, 0.3, 0.1)
WIDTHS = (64, 256, 1024)
HIGH_RATE = 0.2
# Claims about runs of 30,000 updates, which take hours.
LONG = tuple(claim for claim in CLAIMS if claim.first.steps >= 10_000)
FULL_SIZE = tuple(claim for claim in CLAIMS if claim.first.network != "C")
# Narrow networks, whose runs take seconds or minutes.
SMALL = tuple(claim for claim in CLAIMS if claim not in (*FULL_SIZE, *LONG))

OTHER_REMEDIES = changed(
    [STALE],
    {},
    {"scale": 0.5},
    {"scale": 0.3},
    {"scale": 0.2},
    {"scale": 0.1},
    {"pool_norm": "after_relu"},
    {"warmup_steps": 80, "warmup": "linear"},
    {"clip_norm": 0.1},
    {"clip_norm": 2.0},
    {"momentum": 0.0},
    {"optimizer": "momentum"},
    {"classifier_rate": 0.05},
    {"linear_rate": 0.01},
    {"init_gain": 0.1},
    {"init_gain": 0.0},
    {"learned_scale": "scalar", "learned_scale_init": 0.0},  # SkipInit, ReZero
    {"learned_scale": "scalar", "learned_scale_init": 0.1},
    {"learned_scale": "channel", "learned_scale_init": 0.1},  # LayerScale
    {"residual_norm": True},
    {"activation": "leaky_relu"},
    {"activation": "pre"},
    {"head": "published"},
    {"block": "v2"},
    {"stagger": 15},
)

LARGE: dict[str, Any] = {"image_size": 149, "steps": 2000, "probe_every": 20}
GPU = replace(FULL, **LARGE)

PLANS = {
    "quick": Plan(
        "Plan quick: narrow networks with 8 replicas, two seeds. It tests no claim.",
        (Group("Do unscaled networks die?", grid(STALE, scale=BOTH), range(2)),),
        claims=(),
        minutes=2,
    ),
    "main": Plan(
        "Plan main: the paper's networks at the paper's learning rate.",
        (
            *_claim_groups(MAIN_CLAIMS),
            Group(
                "Does Inception-ResNet-v1 die too?",
                grid(replace(V1, **SHORTER), scale=BOTH),
                range(20, 25),
            ),
            Group(
                "Does Inception-v4, which has no residuals, die?",
                (replace(V4, **SHORTER),),
                range(20, 25),
            ),
            Group(
                "Do narrow networks die at a higher rate?",
                grid(NARROW, learning_rate=(HIGH_RATE,), width=(64, 256), scale=BOTH),
                range(30, 35),
            ),
        ),
        claims=MAIN_CLAIMS,
        minutes=13,
    ),
    "full": Plan(
        "Plan full: every claim of section 3.3 except that about late death.",
        (
            *_claim_groups((CLAIMS[0], *SMALL, *FULL_SIZE[1:])),
            Group(
                "Does Inception-ResNet-v1 die too?", grid(V1, scale=BOTH), range(120, 125)
            ),
            Group(
                "Does Inception-v4, which has no residuals, die?", (V4,), range(120, 125)
            ),
            Group(
                "Does a network of 1072 channels die?",
                grid(FULL, width=(1072,), scale=BOTH),
                range(100, 110),
            ),
            Group(
                "Does scaling matter at 536 channels?",
                grid(FULL, width=(536,), scale=(0.1,)),
                range(100, 110),
            ),
            Group(
                "From which width do networks die?",
                grid(NARROW, width=WIDTHS, scale=ALL_SCALES)
                + grid(STALE, width=WIDTHS, scale=ALL_SCALES)
                + grid(NARROW, learning_rate=(HIGH_RATE,), width=WIDTHS, scale=ALL_SCALES),
                range(250, 255),
            ),
            Group(
                "Does the full network die with replicas, from a start that does no harm?",
                grid(HARMLESS, scale=BOTH),
                range(130, 133),
            ),
            Group(
                "Do larger images tell the same?",
                grid(replace(FULL, image_size=149), scale=BOTH),
                range(260, 262),
            ),
            Group(
                "Does the published network, with batch norm before the pool, die?",
                grid(PUBLISHED, scale=(1.0, None)),
                range(120, 123),
            ),
            Group(
                "Does the full network die at a higher rate?",
                grid(replace(FULL, learning_rate=HIGH_RATE), scale=BOTH),
                range(255, 258),
            ),
        ),
        claims=tuple(claim for claim in CLAIMS if claim not in LONG),
        minutes=180,
    ),
    "remedies": Plan(
        "Plan remedies: other changes of the narrow network with 8 replicas; exploratory.",
        (Group("Which other remedies help?", OTHER_REMEDIES, range(300, 305)),),
        claims=(),
        minutes=60,
    ),
    "horizon": Plan(
        "Plan horizon: thousands of updates; it takes hours and continues after a stop.",
        (
            Group(
                "Does the full network die within 3,000 updates?",
                grid(replace(FULL, init_gain=0.0, steps=3000, probe_every=50), scale=BOTH),
                range(170, 172),
            ),
            *_claim_groups(LONG),
            Group(
                "Does a network of 1088 channels die late?",
                grid(replace(LATE, width=1088), scale=BOTH),
                range(160, 163),
            ),
            Group(
                "Do networks die late with replicas?",
                grid(replace(LATE, replicas=4, stagger=15), scale=BOTH),
                range(160, 163),
            ),
        ),
        claims=LONG,
        minutes=600,
    ),
    "gpu": Plan(
        "Plan gpu: the paper's networks at 149 pixels, with more replicas and updates. "
        "Each call trains for seven minutes; repeat it to continue.",
        (
            Group(
                "Do unscaled networks die, and does scaling save them?",
                grid(GPU, scale=BOTH),
                range(400, 410),
            ),
            Group(
                "Do they die with replicas?",
                grid(GPU, replicas=(4, 8, 20), stagger=(15,), scale=BOTH),
                range(400, 405),
            ),
            Group(
                "Do the other networks die?",
                (
                    *grid(replace(V1, **LARGE), scale=BOTH),
                    replace(V4, **LARGE),
                ),
                range(400, 405),
            ),
            Group(
                "Does the full network die late?",
                grid(
                    replace(GPU, init_gain=0.0, steps=30_000, probe_every=250), scale=BOTH
                ),
                range(400, 402),
            ),
        ),
        claims=(),
        minutes=7,
    ),
}
