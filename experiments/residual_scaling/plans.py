# SPDX-License-Identifier: Apache-2.0
"""Plans: the runs to train for each time budget, in order of importance.

To add a run, add a change to `BASE` in one of the groups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from experiments.residual_scaling.runs import FULL_WIDTHS, PAPER_LEARNING_RATE, Run

HIGH = 0.2  # a rate at which unscaled networks fail within 80 steps
# 5 of 5 against 0 of 5 gives p = 0.008; Holm's correction needs 8 seeds or two settings.
SEEDS = 5


@dataclass(frozen=True)
class Group:
    """Settings that answer a question together, each repeated with every seed."""

    question: str
    settings: tuple[Run, ...]
    seeds: int = SEEDS
    first_seed: int = 0

    @property
    def runs(self) -> list[Run]:
        """Runs seed by seed, so that an unfinished group has complete seeds."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [replace(setting, seed=k) for k in seeds for setting in self.settings]


@dataclass(frozen=True)
class Plan:
    """Groups of runs, the most important first, and the time budget."""

    description: str
    groups: tuple[Group, ...]
    minutes: float
    probe_images: int = 128


def grid(base: Run, **values: Sequence[Any]) -> tuple[Run, ...]:
    """Return `base` changed to every combination of the values of fields."""
    combinations = product(*values.values())
    return tuple(
        replace(base, **dict(zip(values, chosen, strict=True))) for chosen in combinations
    )


def changed(bases: Iterable[Run], *changes: dict[str, Any]) -> tuple[Run, ...]:
    """Return each of the bases with each of the changes."""
    return tuple(replace(base, **change) for change in changes for base in bases)


# An unscaled network that fails, with which every remedy is compared.
BASE = Run(width=256, learning_rate=HIGH)
ROOT, INVERSE = BASE.depth**-0.5, 1 / BASE.depth

# Remedies that share a compiled program with their base are tested at two widths.
BASES = grid(BASE, width=(64, 256))
LOWER_RATES = changed(BASES, {"learning_rate": HIGH / 10}, {"learning_rate": HIGH / 100})
WARM_UP = changed(
    BASES,
    {"warmup_steps": 40},  # half of the run, at a rate of 0.00001
    {"warmup_steps": 40, "warmup": "linear"},
)
CLIPPING = changed(BASES, {"clip_norm": 1.0})
MECHANISM = changed(
    BASES,
    {"init_gain": 0.1},  # small residuals at the start only
    {"classifier_rate": 0.05},
    {"linear_rate": 0.01},
)
TEN_TIMES_LONGER = grid(replace(BASE, width=64, steps=800), learning_rate=(HIGH, HIGH / 10))
EXTRA_NORM = changed([BASE], {}, {"pool_norm": "before_relu"}, {"pool_norm": "after_relu"})
SHALLOW = grid(replace(BASE, depth=4), scale=(1.0, 0.3, 0.1))
PLAIN = grid(replace(BASE, learning_rate=PAPER_LEARNING_RATE), block=("plain", "concat"))
HARDER = grid(replace(BASE, data="prototypes"), scale=(1.0, 0.1))

OTHER_REMEDIES = changed(
    [BASE],
    {"clip_norm": 0.1},
    {"clip_norm": 2.0},
    {"momentum": 0.0},
    {"optimizer": "momentum"},
    {"learned_scale": "scalar", "learned_scale_init": 0.0},  # SkipInit, ReZero
    {"learned_scale": "scalar", "learned_scale_init": 0.1},
    {"learned_scale": "scalar"},
    {"learned_scale": "channel", "learned_scale_init": 0.1},  # LayerScale
    {"learned_scale": "channel", "learned_scale_init": 1e-5},
    {"residual_norm": True},
    {"residual_norm": True, "scale": 0.1},
    {"activation": "leaky_relu"},
    {"activation": "pre"},
    {"head": "published"},
    {"head": "published", "scale": None},
    {"block": "v2"},
    {"block": "v2", "scale": 0.1},
)

RATES = (HIGH, PAPER_LEARNING_RATE)
WIDTHS = grid(BASE, learning_rate=RATES, width=(64, 256, 1024), scale=(1.0, 0.1))
WIDTHS += grid(BASE, width=(64, 256), scale=(0.3,))

# Long enough for plain networks to learn.
LONGER = grid(Run(width=256, steps=400), scale=(1.0, 0.3, 0.1))
LONGER += grid(Run(width=256, steps=400), block=("plain", "concat"))
# Narrow networks, which two CPU cores train for this long in minutes.
TENS_OF_THOUSANDS = grid(Run(width=64, steps=20_000, probe_every=200), scale=(1.0, 0.1))
# The blocks of Figs 17 and 19 at their own widths, at the paper's rate.
WIDE = Run(data="prototypes", network="BC", width=2080, block="v2", dtype="bfloat16")
WIDE = replace(WIDE, batch_size=64, steps=1000, probe_every=50)
LONG_AND_WIDE = grid(replace(WIDE, steps=30_000, probe_every=500), scale=(1.0, 0.1))

CPU_GROUPS = (
    Group("Do wide unscaled networks die, and does scaling save them?", WIDTHS),
    Group("Do they also die on a harder task?", HARDER),
    Group("Do remedies that failed in the paper help?", LOWER_RATES + WARM_UP),
    Group("Does clipping help? How does scaling work?", CLIPPING + MECHANISM),
    Group("Does batch norm before the pool help?", EXTRA_NORM, seeds=8),
    Group("Do channels recover? Does a lower rate only delay death?", TEN_TIMES_LONGER),
    Group("Do deeper networks need smaller scales?", SHALLOW),
    Group("Do residual networks train faster?", PLAIN),
)

QUICK = grid(replace(BASE, steps=60), width=(64, 256), scale=(1.0, 0.1))
# Networks of the paper at their own width, with the paper's learning rate and optimizer and
# TF-slim's weight decay, on digits enlarged to 75x75 pixels. PREREGISTRATION.md fixes their
# tests.
FULL = Run(
    network="inception_resnet_v2_paper",
    width=FULL_WIDTHS["inception_resnet_v2_paper"],
    image_size=75,
    init="glorot",  # as published
    weight_decay=4e-5,
    batch_size=16,
    probe_first=10,
)
V1 = replace(FULL, network="inception_resnet_v1", width=FULL_WIDTHS["inception_resnet_v1"])
V4 = replace(FULL, network="inception_v4", width=FULL_WIDTHS["inception_v4"])
NARROW = grid(FULL, width=(536, 1072))
# Asynchronous training of the narrow network at the paper's rate.
STALE = Run(width=256, weight_decay=4e-5, steps=160, replicas=8)
STALE_FULL = replace(FULL, init_gain=0.0, replicas=8, stagger=15, steps=200)

BOUNDARY = grid(BASE, learning_rate=(0.1, 0.4), width=(64, 256), scale=(1.0, 0.3, 0.1))

PLANS = {
    "quick": Plan(
        "Plan quick: two widths, two scales, two seeds; a trial that decides no claim.",
        (Group("Do unscaled networks die?", QUICK, seeds=2),),
        minutes=2,
    ),
    "cpu": Plan(
        "Plan cpu: the claims of section 3.3, except claim 3, in small networks.",
        CPU_GROUPS,
        minutes=20,
    ),
    "full": Plan(
        "Plan full: the paper's networks at the paper's learning rate.",
        (
            Group(
                "Do the paper's networks die, and does scaling save them?",
                grid(FULL, scale=(1.0, 0.1)),
                seeds=10,
                first_seed=100,
            ),
            Group(
                "Do narrow networks die with stale gradients?",
                grid(STALE, scale=(1.0, 0.1)),
                seeds=10,
                first_seed=110,
            ),
            Group(
                "Do narrow networks die with a single replica?",
                grid(replace(STALE, replicas=1), scale=(1.0, 0.1)),
                seeds=10,
                first_seed=110,
            ),
            Group("Do narrower versions die?", NARROW, seeds=10, first_seed=100),
            Group(
                "Does the paper's other residual network die?",
                grid(V1, scale=(1.0, 0.1)),
                seeds=5,
                first_seed=120,
            ),
            Group("Does a network without residuals die?", (V4,), seeds=5, first_seed=120),
            Group(
                "Does the full network die late, with stale gradients?",
                grid(STALE_FULL, scale=(1.0, 0.1)),
                seeds=3,
                first_seed=130,
            ),
        ),
        minutes=120,
        probe_images=64,
    ),
    "cpu_more": Plan(
        "Plan cpu_more: the runs of cpu, other remedies and longer runs.",
        (
            *CPU_GROUPS,
            Group("Which scales help?", grid(BASE, scale=(0.5, ROOT, 0.2, 0.17, INVERSE))),
            Group("Which other remedies help?", OTHER_REMEDIES),
            Group("Where does instability begin?", BOUNDARY),
            Group(
                "Does the initialiser matter?",
                grid(BASE, init=("glorot", "stddev_0.1"), width=(64, 256, 1024)),
            ),
            Group(
                "Do deeper networks need smaller scales?",
                grid(replace(BASE, depth=20), scale=(1.0, 0.3, 0.1)),
            ),
            Group("Do residual networks train faster?", LONGER),
            Group("Do networks die after tens of thousands of steps?", TENS_OF_THOUSANDS),
        ),
        minutes=90,
    ),
    "gpu": Plan(
        "Plan gpu: the paper's widths and number of steps; continue with --minutes.",
        (
            Group(
                "Do wide unscaled networks die, and does scaling save them?",
                grid(WIDE, width=(2080, 1088, 512), scale=(1.0, 0.3, 0.1)),
            ),
            Group("Do networks die after tens of thousands of steps?", LONG_AND_WIDE, 1),
            Group(
                "Does the initialiser matter?", grid(WIDE, init=("glorot", "stddev_0.1"))
            ),
            Group(
                "Do remedies that failed in the paper help?",
                changed(
                    [WIDE],
                    {"learning_rate": 0.0045},
                    {"pool_norm": "before_relu"},
                    {"pool_norm": "after_relu"},
                    {"warmup_steps": 500},
                    {"clip_norm": 2.0},
                ),
            ),
            Group("Is bfloat16 the cause?", grid(WIDE, dtype=("float32",)), seeds=1),
            Group("Do other seeds agree?", LONG_AND_WIDE),
        ),
        minutes=25,
        probe_images=512,
    ),
}
