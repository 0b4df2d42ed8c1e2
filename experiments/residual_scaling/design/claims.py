# SPDX-License-Identifier: Apache-2.0
"""The claims of section 3.3, each with the one test that decides it.

A claim compares two settings whose runs are paired by seed. PREREGISTRATION.md explains the
tests; `judge.tests` computes them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.design.settings import (
    DEEP,
    FULL,
    LATE,
    LEARNING,
    NARROW,
    PLATEAU,
    SHORTER,
    STALE,
)

Endpoint = Literal["dead_share", "only_zeros", "test_accuracy", "steps_to_80"]
Condition = Literal["", "second survives", "first stays dead", "first dies late"]

SCALED = 0.1
# A measure "does not help" if it lowers the dead share by less than this.
DEAD_MARGIN = 0.1
ACCURACY_MARGIN = 0.01  # one point


@dataclass(frozen=True)
class Claim:
    """A statement, and the comparison that tests it.

    The claim says that the difference first - second of the endpoint is above the margin,
    or below it with `expected="below"`. A claim whose `condition` fails is contradicted.
    """

    name: str
    text: str
    first: Run
    second: Run
    labels: tuple[str, str]  # of the two settings
    seeds: range
    endpoint: Endpoint = "dead_share"
    margin: float = 0.0
    expected: Literal["above", "below"] = "above"
    condition: Condition = ""

    @property
    def runs(self) -> list[Run]:
        """The runs of both settings, seed by seed."""
        return [
            replace(run, seed=seed)
            for seed in self.seeds
            for run in (self.first, self.second)
        ]

    @property
    def setting(self) -> str:
        """The network and the training that both settings have, in a few words."""
        network = "narrow" if self.first.network == "C" else "full"
        updates = sorted({run.steps for run in (self.first, self.second)})
        replicas = min(self.first.replicas, self.second.replicas)
        words = [f"{network} network", f"{' or '.join(map(str, updates))} updates"]
        return ", ".join([*words, f"{replicas} replicas"] if replicas > 1 else words)

    def on_data(self, data: str) -> "Claim":
        """Return the claim on another data set than the digits."""
        first, second = self.first.on_data(data), self.second.on_data(data)
        return replace(self, first=first, second=second)


def _scaled(run: Run, scale: float = SCALED) -> Run:
    return replace(run, scale=scale)


def _unhelpful(
    name: str, text: str, changed: Run, labels: tuple[str, str], seeds: range
) -> Claim:
    """Return the claim that a measure does not save the narrow network with replicas."""
    return Claim(
        name, text, STALE, changed, labels, seeds, margin=DEAD_MARGIN, expected="below"
    )


SCALES = ("scale 1", "scale 0.1")
LONG_STALE = replace(STALE, steps=1600, probe_every=20)
MANY_REPLICAS = replace(NARROW, replicas=20)

CLAIMS = (
    Claim(
        "unscaled networks die",
        "Unscaled networks of more than 1000 filters die, and scaling by 0.1 saves them",
        FULL,
        _scaled(FULL),
        SCALES,
        range(100, 110),
    ),
    Claim(
        "narrower networks survive",
        "Narrower versions of the network survive",
        FULL,
        replace(FULL, width=536),
        ("2144 channels", "536 channels"),
        range(100, 110),
        condition="second survives",
    ),
    Claim(
        "narrow networks die with replicas",
        "With 8 replicas narrow networks die too, and scaling by 0.1 saves them",
        STALE,
        _scaled(STALE),
        SCALES,
        range(110, 120),
    ),
    Claim(
        "stale gradients kill",
        "Stale gradients are the reason why the narrow networks die",
        STALE,
        NARROW,
        ("8 replicas", "1 replica"),
        range(110, 120),
    ),
    Claim(
        "only zeros",
        "With 20 replicas, as in the paper, nothing but zeros reaches the average pool of "
        "unscaled networks",
        MANY_REPLICAS,
        _scaled(MANY_REPLICAS),
        SCALES,
        range(140, 150),
        endpoint="only_zeros",
    ),
    Claim(
        "dead networks stay dead",
        "Dead networks stay dead for 1,600 updates",
        LONG_STALE,
        _scaled(LONG_STALE),
        SCALES,
        range(150, 160),
        condition="first stays dead",
    ),
    Claim(
        "networks die late",
        "Networks that survive their start die after tens of thousands of updates",
        LATE,
        _scaled(LATE),
        SCALES,
        range(160, 170),
        condition="first dies late",
    ),
    _unhelpful(
        "a lower rate does not help",
        "A tenth of the learning rate, with ten times the updates, does not prevent death",
        replace(STALE, learning_rate=0.0045, steps=1600, probe_every=20),
        ("rate 0.045", "rate 0.0045"),
        range(170, 180),
    ),
    _unhelpful(
        "batch norm before the pool does not help",
        "An extra batch normalisation before the average pool does not prevent death",
        replace(STALE, pool_norm="before_relu"),
        ("without", "with batch norm"),
        range(180, 190),
    ),
    Claim(
        "a scale of 0.3 suffices",
        "A scale of 0.3, the upper end of the paper's range, saves networks too",
        FULL,
        _scaled(FULL, 0.3),
        ("scale 1", "scale 0.3"),
        range(100, 110),
    ),
    _unhelpful(
        "warm-up does not help",
        "Warming up at a rate of 0.00001 for 80 updates does not prevent death",
        replace(STALE, warmup_steps=80, steps=240),
        ("without", "with warm-up"),
        range(190, 200),
    ),
    Claim(
        "scaling does not harm accuracy",
        "Scaling by 0.1 costs less than one point of the final accuracy of a network that "
        "is stable without it",
        PLATEAU,
        _scaled(PLATEAU),
        SCALES,
        range(200, 216),
        endpoint="test_accuracy",
        margin=ACCURACY_MARGIN,
        expected="below",
    ),
    Claim(
        "clipping helps",
        "Clipping the gradient at norm 1 prevents death (AAAI version)",
        STALE,
        replace(STALE, clip_norm=1.0),
        ("without", "with clipping"),
        range(220, 230),
    ),
    Claim(
        "deeper networks need smaller scales",
        "Deeper networks need smaller scales: at 0.3, 20 blocks die more than 4 (AAAI "
        "version)",
        replace(DEEP, depth=20),
        replace(DEEP, depth=4),
        ("20 blocks", "4 blocks"),
        range(230, 240),
    ),
    Claim(
        "updates kill, not only the start",
        "A network that starts as the scaled one does, with linear layers of a tenth of "
        "the weights, still dies (not in the paper)",
        replace(FULL, init_gain=0.1),
        _scaled(FULL),
        ("initial weights x 0.1", "scale 0.1"),
        range(100, 110),
    ),
    Claim(
        "residual networks train faster",
        "Residual networks need fewer updates to learn than networks that concatenate "
        "branches at equal cost",
        replace(LEARNING, block="concat"),
        _scaled(LEARNING),
        ("concatenated branches", "residuals, scale 0.1"),
        range(240, 250),
        endpoint="steps_to_80",
    ),
)

# The main job tests three of the claims with seeds of its own and fewer updates of the full
# network. Six pairs can be significant on their own, and seven after Holm's correction. The
# narrow networks come first, because they take two minutes.
SHORT = replace(FULL, **SHORTER)
MAIN_CLAIMS = (
    replace(CLAIMS[2], seeds=range(10, 17)),
    replace(CLAIMS[3], seeds=range(10, 17)),
    replace(CLAIMS[0], first=SHORT, second=_scaled(SHORT), seeds=range(6)),
)
