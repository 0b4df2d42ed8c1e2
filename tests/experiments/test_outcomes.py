# SPDX-License-Identifier: Apache-2.0
"""Outcomes of runs, by their definitions."""

import math

import pytest

from experiments.residual_scaling.judge import outcomes

GUESSING = [2.3] * 14
LEARNING = [2.3, 2.0, 1.5, 1.0] + [0.5] * 10


def record(loss, dead, probe_loss=None, classes=10, **changes):
    steps = range(0, 10 * len(dead), 10)
    probes = {
        "step": list(steps),
        "pool_dead": dead,
        "loss": probe_loss or [2.3] * len(dead),
        "accuracy": [0.1] * len(dead),
    }
    made = {"loss": loss, "loss_every": 1, "probes": probes, "classes": classes}
    return made | {"run": {"steps": len(loss)}} | changes


@pytest.mark.parametrize(
    ("loss", "dead", "collapsed"),
    [
        (GUESSING, [0, 0.95], (True, True, False)),
        (GUESSING, [0, 0.949], (True, False, False)),
        (GUESSING, [0, 0.89], (False, False, False)),
        (GUESSING, [0, 1.0], (True, True, True)),
        (GUESSING, [1.0, 0.2], (False, False, False)),  # only the last probe counts
        (LEARNING, [0, 1.0], (False, False, False)),  # it has learned
        ([2.188] * 14, [1.0], (True, True, True)),  # 0.95 ln(10) is 2.1875
        ([2.187] * 14, [1.0], (False, False, False)),
        ([0.5] * 4 + [2.3] * 10, [1.0], (True, True, True)),  # the last ten updates count
        ([2.3, math.nan], [0.0], (True, True, True)),
        ([2.3, None], [0.0], (True, True, True)),
    ],
)
def test_collapse_needs_dead_channels_and_guessing(loss, dead, collapsed):
    shares = (0.90, 0.95, 0.99)
    made = record(loss, dead)
    assert tuple(outcomes.has_collapsed(made, share) for share in shares) == collapsed


def test_guessing_depends_on_the_number_of_classes():
    assert not outcomes.has_collapsed(record(GUESSING, [1.0], classes=100))


def test_a_diverged_run_has_no_living_channel():
    made = record([2.3, math.inf], [0.0])
    assert outcomes.has_diverged(made)
    assert outcomes.dead_share(made) == 1.0
    assert outcomes.final_loss(made) == math.inf
    assert outcomes.collapse_step(made) == 2


def test_the_final_loss_is_that_of_ten_updates():
    assert outcomes.final_loss(record(LEARNING, [0.0])) == 0.5
    thinned = record([9.0, 1.0, 3.0], [0.0], loss_every=5)
    assert outcomes.final_loss(thinned) == 2.0


@pytest.mark.parametrize(
    ("dead", "probe_loss", "step"),
    [
        ([0, 0.5, 0.94], None, None),
        ([0, 0.95, 0.5, 0.97], None, 10),  # the first passage, whatever comes later
        ([0, 0.95, 0.96], [2.3, 1.0, 2.3], 20),  # it was still learning at step 10
        ([0, 0.95, 0.96], [2.3, None, 2.3], 10),  # an infinite loss is no better
    ],
)
def test_a_collapse_is_dated_by_its_first_probe(dead, probe_loss, step):
    assert outcomes.collapse_step(record(GUESSING, dead, probe_loss)) == step


def test_updates_to_an_accuracy():
    made = record(LEARNING, [0, 0, 0])
    assert outcomes.steps_to(made, 0.8) == 15
    made["probes"]["accuracy"] = [0.1, None, 0.8]
    assert outcomes.steps_to(made, 0.8) == 20
