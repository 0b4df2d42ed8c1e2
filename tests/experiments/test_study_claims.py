# SPDX-License-Identifier: Apache-2.0
"""The test of each claim, on runs of known construction."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import residual_scaling
from experiments.residual_scaling.design.claims import CLAIMS, MAIN_CLAIMS, Claim
from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.judge.tests import (
    judge_claims,
    pairs_needed,
    signed_rank_interval,
    signed_rank_p,
)

NAMES = {claim.name: claim for claim in CLAIMS}
DIES = NAMES["unscaled networks die"]
UNHELPFUL = NAMES["clipping helps"]
ACCURACY = NAMES["scaling does not harm accuracy"]


def rows(setting: Run, seeds: range, value: float, step: float = 0.0, **others) -> list:
    """Return rows of runs whose dead shares and accuracies grow by `step` per seed."""
    return [
        asdict(replace(setting, seed=seed))
        | {
            "dead_share": value + i * step,
            "test_accuracy": value + i * step,
            "steps_to_80": 100,
            "collapsed": value >= 0.95,
            "collapsed_90": value >= 0.9,
            "collapsed_99": value >= 0.99,
            "only_zeros": value == 1,
            "collapse_step": 20.0 if value >= 0.95 else np.nan,
            "recovered": False,
        }
        | others
        for i, seed in enumerate(seeds)
    ]


def judge(claim: Claim, first: list, second: list) -> dict:
    return judge_claims(pd.DataFrame(first + second), [claim]).to_dict("records")[0]


def compare(claim: Claim, first: float, second: float, step: float = 0.001) -> dict:
    """Judge a claim on runs whose two groups have these values."""
    return judge(
        claim,
        rows(claim.first, claim.seeds, first, step),
        rows(claim.second, claim.seeds, second, step / 2),
    )


def test_ten_pairs_of_one_sign():
    row = compare(DIES, 0.96, 0.4)
    assert row["verdict"] == "reproduced"
    assert row["p"] == pytest.approx(2 / 1024)
    assert (row["pairs"], row["planned"]) == (10, 10)
    assert (row["first_collapsed"], row["second_collapsed"]) == (10, 0)
    assert (row["first_collapsed_90"], row["first_collapsed_99"]) == (10, 0)
    assert row["low"] <= row["difference"] <= row["high"]
    assert compare(DIES, 0.4, 0.96)["verdict"] == "contradicted"
    assert compare(DIES, 0.4, 0.4, 0.0)["verdict"] == "undecided"


def test_missing_runs_leave_a_claim_unfinished():
    first = rows(DIES.first, DIES.seeds, 0.96)
    row = judge(DIES, first, rows(DIES.second, DIES.seeds, 0.4)[:-1])
    assert (row["verdict"], row["pairs"]) == ("unfinished", 9)
    assert np.isnan(row["p"])
    # Runs of other seeds do not count.
    others = rows(DIES.second, range(500, 510), 0.4)
    assert judge(DIES, first, others)["pairs"] == 0


def test_holms_correction_counts_unfinished_claims():
    runs = pd.DataFrame(
        rows(DIES.first, DIES.seeds, 0.96, 0.001) + rows(DIES.second, DIES.seeds, 0.4)
    )
    table = judge_claims(runs, CLAIMS).set_index("name")
    assert table.loc[DIES.name, "p_holm"] == pytest.approx(len(CLAIMS) * 2 / 1024)
    assert (table["verdict"] == "unfinished").sum() == len(CLAIMS) - 1
    assert table["p_holm"].notna().sum() == 1


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.margin], ids=lambda c: c.name)
def test_a_measure_does_not_help_if_the_difference_is_below_the_margin(claim):
    margin = claim.margin
    assert compare(claim, 0.5 + margin / 2, 0.5, margin / 100)["verdict"] == "reproduced"
    assert compare(claim, 0.5 + 2 * margin, 0.5, margin / 100)["verdict"] == "contradicted"
    if claim is ACCURACY:  # more accurate with scaling
        assert compare(claim, 0.4, 0.5)["verdict"] == "reproduced"


def test_narrow_networks_that_die_less_but_die_do_not_survive():
    claim = NAMES["narrower networks survive"]
    assert compare(claim, 0.97, 0.3)["verdict"] == "reproduced"
    assert compare(claim, 0.99, 0.955)["verdict"] == "contradicted"


def test_networks_that_recover_do_not_stay_dead():
    claim = NAMES["dead networks stay dead"]
    second = rows(claim.second, claim.seeds, 0.1)
    assert judge(claim, rows(claim.first, claim.seeds, 0.97), second)["verdict"] == (
        "reproduced"
    )
    recovered = rows(claim.first, claim.seeds, 0.5, collapse_step=20.0, recovered=True)
    assert judge(claim, recovered, second)["verdict"] == "contradicted"


@pytest.mark.parametrize(
    ("step", "verdict"), [(20, "contradicted"), (12_000, "reproduced")]
)
def test_an_early_collapse_is_not_a_late_one(step, verdict):
    claim = NAMES["networks die late"]
    first = rows(claim.first, claim.seeds, 0.97, collapse_step=step)
    assert judge(claim, first, rows(claim.second, claim.seeds, 0.1))["verdict"] == verdict


def test_the_p_value_is_that_of_scipy():
    differences = np.random.default_rng(0).normal(0.3, 1, 10)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank_p(differences) == pytest.approx(expected)
    # Ties and zeros: every change of sign is counted by hand.
    tied = np.array([1, 1, -1, 2, 2, 2.0])
    ranks = stats.rankdata(np.abs(tied))
    signs = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1).T
    sums, observed = signs @ ranks, ranks[tied > 0].sum()
    middle = ranks.sum() / 2
    share = np.mean(np.abs(sums - middle) >= abs(observed - middle) - 1e-9)
    assert signed_rank_p(tied) == pytest.approx(share)
    assert signed_rank_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("n", [6, 10, 16])
def test_the_interval_holds_what_the_test_does_not_reject(n):
    values = np.random.default_rng(n).normal(1, 1, n)
    low, high = signed_rank_interval(values)
    for bound, sign in ((low, 1), (high, -1)):
        inside, outside = bound + sign * 1e-6, bound - sign * 1e-6
        assert stats.wilcoxon(values - inside, method="exact").pvalue >= 0.05
        assert stats.wilcoxon(values - outside, method="exact").pvalue < 0.05
    assert signed_rank_interval(values[:5]) == (-np.inf, np.inf)
    assert signed_rank_interval([]) == (-np.inf, np.inf)


def test_clear_differences_need_fewer_pairs():
    clear, unclear = np.linspace(-0.2, 2, 10), np.linspace(-1, 2, 10)
    assert pairs_needed(clear, 0.05) < pairs_needed(unclear, 0.05)
    assert pairs_needed(clear, 0.003) > pairs_needed(clear, 0.05)
    assert pairs_needed([-1.0, 1.0], 0.05) is None
    assert pairs_needed([0.0] * 10, 0.05) is None


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_the_runs_of_its_claims(name):
    planned = set(PLANS[name].runs)
    for claim in PLANS[name].claims:
        assert set(claim.runs) <= planned


def test_every_claim_is_registered_and_in_one_plan():
    page = (Path(residual_scaling.__file__).parent / "PREREGISTRATION.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert len(table) == len(CLAIMS)
    for number, (line, claim) in enumerate(zip(table, CLAIMS, strict=True), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == str(number)
        assert cells[-1] == f"{claim.seeds.start} to {claim.seeds.stop - 1}"
        assert cells[-2] == str(len(claim.seeds))
        assert cells[-3] == f"{claim.expected} {claim.margin:g}"
        assert sum(claim in PLANS[name].claims for name in ("full", "horizon")) == 1
    assert {claim.name for claim in MAIN_CLAIMS} <= set(NAMES)


def test_a_claim_names_its_setting():
    settings = {claim.name: claim.setting for claim in CLAIMS}
    assert settings["unscaled networks die"] == "full network, 80 updates"
    assert settings["clipping helps"] == "narrow network, 160 updates, 8 replicas"
    assert settings["stale gradients kill"] == "narrow network, 160 updates"
    assert settings["warm-up does not help"].startswith("narrow network, 160 or 240 up")


def test_claims_on_another_data_set():
    for claim in (claim.on_data("folder:x") for claim in CLAIMS):
        assert claim.first.data == claim.second.data
        assert claim.first.data in ("folder:x", "endless")
    moved = PLANS["main"].on_data("folder:x")
    assert {run.data for run in moved.runs} == {"folder:x"}
    assert {run for claim in moved.claims for run in claim.runs} <= set(moved.runs)
