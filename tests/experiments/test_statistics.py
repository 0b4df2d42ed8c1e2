# SPDX-License-Identifier: Apache-2.0
"""The tests and intervals of the study against published examples."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiments.residual_scaling import statistics
from experiments.residual_scaling.statistics import Share

# Freireich et al. (1963): weeks of remission on 6-MP (the first 9 ended) and on placebo.
MERCAPTOPURINE = [
    6,
    6,
    6,
    7,
    10,
    13,
    16,
    22,
    23,
    6,
    9,
    10,
    11,
    17,
    19,
    20,
    25,
    32,
    32,
    34,
    35,
]
ENDED = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_wilson_interval_against_published_values():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert Share(15, 148).interval == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert Share(0, 20).interval == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert Share(1, 29).interval == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_stratified_fisher_of_one_stratum_is_fishers():
    for a, b, c, d in itertools.product(range(4), repeat=4):
        expected = stats.fisher_exact([[a, b], [c, d]]).pvalue if a + b and c + d else 1
        found = statistics.fisher_p([(Share(a, a + b), Share(c, c + d))])
        assert found == pytest.approx(expected)
    assert statistics.fisher_p([(Share(5, 5), Share(0, 5))]) == pytest.approx(2 / 252)


def test_stratified_fisher_against_a_published_example():
    # Penicillin in rabbits: Agresti (1990), pp. 233-237; the exact p-value of R's
    # mantelhaen.test is 0.03994.
    cured = [((0, 6), (0, 5)), ((3, 3), (0, 6)), ((6, 0), (2, 4)), ((5, 1), (6, 0))]
    strata = [tuple(Share(c, c + d) for c, d in pair) for pair in cured]
    strata.append((Share(2, 2), Share(5, 5)))
    assert statistics.fisher_p(strata) == pytest.approx(0.03994, abs=1e-5)
    assert statistics.excess(strata) == pytest.approx(3.0)


def test_strata_are_not_one_table():
    strata = [(Share(5, 5), Share(20, 20)), (Share(0, 20), Share(0, 5))]
    assert statistics.fisher_p(strata) == 1.0
    assert statistics.fisher_p([(Share(5, 25), Share(20, 25))]) < 0.001


def test_binomial_test_against_a_half():
    assert statistics.majority_p(Share(5, 5)) == pytest.approx(1 / 32)
    assert statistics.majority_p(Share(0, 5)) == 1.0
    assert statistics.majority_p(Share(0, 0)) == 1.0


def test_mcnemar_counts_the_pairs_that_differ():
    assert statistics.mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert statistics.mcnemar_p(0, 0) == 1.0
    assert statistics.mcnemar_p(2, 9) == pytest.approx(stats.binomtest(2, 11).pvalue)


def test_holm_against_a_worked_example():
    # The smallest times 4, the next times 3, ..., and never below one before.
    corrected = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


def test_no_harm_is_the_lower_half_of_an_equivalence_test():
    gains = [0.01, 0.02, 0.015, 0.012, 0.02]
    above = stats.ttest_1samp(gains, -0.005, alternative="greater").pvalue
    below = stats.ttest_1samp(gains, 0.005, alternative="less").pvalue
    assert statistics.paired_tost(gains, -0.005) == pytest.approx(
        (above, max(above, below))
    )
    assert statistics.paired_tost([0.0] * 5, -0.005) == (0.0, 0.0)
    assert statistics.paired_tost([0.1] * 5, -0.005) == (0.0, 1.0)
    assert statistics.paired_tost([-0.1] * 5, -0.005) == (1.0, 1.0)
    assert statistics.paired_tost([0.0] * 2, -0.005) == (1.0, 1.0)


def test_intervals_of_a_mean():
    values = [1.0, 2.0, 3.0, 4.0, 6.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    found = statistics.t_interval(values)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    found = statistics.bootstrap(np.mean, values)
    assert found.value == pytest.approx(3.2)
    assert 1 < found.low < 2.5 < 3.8 < found.high < 6
    for few in (statistics.t_interval([1.0]), statistics.bootstrap(np.mean, [1.0])):
        assert (few.low, few.value, few.high) == (-math.inf, 1.0, math.inf)


def test_bootstrap_keeps_rows_together():
    columns = np.arange(10.0), 2 * np.arange(10.0)
    found = statistics.bootstrap(lambda a, b: float(np.max(np.abs(b - 2 * a))), *columns)
    assert (found.low, found.high) == (0.0, 0.0)


def test_kaplan_meier_against_a_published_example():
    curve = stats.ecdf(statistics.censored(MERCAPTOPURINE, ENDED)).sf
    # Kaplan-Meier estimates of the 6-MP run, as in Kalbfleisch and Prentice.
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, expected in published.items():
        assert curve.evaluate(week) == pytest.approx(expected, abs=5e-4)
    found = statistics.median_time(MERCAPTOPURINE, ENDED)
    assert (found.value, found.low, found.high) == (23, 13, math.inf)
    found = statistics.median_time(PLACEBO, [True] * 21)
    assert (found.value, found.low, found.high) == (8, 4, 11)


def test_interval_of_the_median_is_the_log_log_one():
    # Where all end, Greenwood's formula is that of a share.
    times = np.arange(1, 13)
    left = 1 - times[:-1] / 12
    spread = 1.96 * np.sqrt((1 - left) / (12 * left)) / np.log(left)
    low, high = (left ** np.exp(sign * spread) for sign in (-1, 1))
    found = statistics.median_time(times, [True] * 12)
    assert found.value == 6
    assert found.low == times[:-1][low <= 0.5][0]
    assert found.high == times[:-1][high <= 0.5][0]


def test_median_time_where_all_or_none_end():
    assert str(statistics.median_time([40] * 5, [True] * 5)) == "40 [40, 40]"
    assert statistics.median_time([80] * 5, [False] * 5).value == math.inf


def test_medians_are_formatted_without_infinities():
    for times, reached, text in (
        ([50, 60, 60, 70, 80], [True] * 5, "60 [50, 80]"),
        ([60, 70, 70, 80, 80], [True] * 3 + [False] * 2, "70 [60, > 80]"),
        ([60, 80, 80, 80, 80], [True] + [False] * 4, "> 80"),
        ([80] * 5, [False] * 5, "never reached within 80 steps"),
    ):
        assert statistics.format_median(times, reached) == text


def test_numbers_have_equal_decimals_and_three_significant_digits():
    for values, text in (
        ((-4.377, -12.66, 3.911), "-4.4 [-12.7, 3.9]"),
        ((0.04168, -0.06102, 0.1722), "0.042 [-0.061, 0.172]"),
        ((62.02, 53.34, 70.7), "62.0 [53.3, 70.7]"),
        ((139.4, 64.0, 255.6), "139 [64, 256]"),
        ((0.3, 0.3, 0.3), "0.3 [0.3, 0.3]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((0.5, -math.inf, math.inf), "0.5 [too few seeds]"),
    ):
        assert str(statistics.Estimate(*values)) == text
    assert statistics.format_p(0.0004) == "p < 0.001"
    assert statistics.format_p(0.0123) == "p = 0.012"


def test_log_rank_against_a_published_example():
    placebo = statistics.censored(PLACEBO, [True] * 21)
    treated = statistics.censored(MERCAPTOPURINE, ENDED)
    # The published chi-squared is 16.79.
    expected = stats.norm.sf(math.sqrt(16.79))
    assert statistics.log_rank_p([(placebo, treated)]) == pytest.approx(expected, rel=0.01)
    assert statistics.log_rank_p([(treated, placebo)]) == pytest.approx(1 - expected)
    both = statistics.log_rank_p([(placebo, treated)] * 2)
    assert both == pytest.approx(stats.norm.sf(math.sqrt(2 * 16.79)), rel=0.02)
    nothing = statistics.censored([80] * 5, [False] * 5)
    assert statistics.log_rank_p([(nothing, nothing)]) == 0.5
    assert statistics.log_rank_p([(nothing, nothing), (placebo, treated)]) < 1e-4
    at_once = statistics.censored([10] * 5, [True] * 5)
    assert statistics.log_rank_p([(at_once, at_once)]) == 0.5


def test_threshold_is_where_the_fit_gives_one_half():
    widths = np.repeat([64, 128, 256, 512, 1024], 20)
    died = np.concatenate([np.arange(20) < n for n in (1, 4, 10, 16, 19)])
    found = statistics.threshold(widths, died)
    assert found.value == pytest.approx(256, rel=0.01)
    assert 128 < found.low < 250 < 262 < found.high < 512
    wider = statistics.threshold(np.append(widths, [4096] * 5), np.append(died, [True] * 5))
    assert wider.value == pytest.approx(256, rel=0.05)
    assert statistics.threshold(widths, ~died) is None  # falls
    assert statistics.threshold(widths, np.full(100, True)) is None
    assert statistics.threshold([64], [True]) is None
    alike = [True, False] * 2
    assert statistics.threshold([64, 64, 128, 128], alike) is None


def test_held_out_loss_uses_no_run_of_the_same_setting():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    happened = np.repeat(rng.random(20) < 0.5, 5)
    # The identity of a group does not predict another group.
    names = np.eye(20)[groups]
    assert statistics.held_out_loss(names, happened, groups).mean() > math.log(2) - 0.05
    known = happened[:, None] + 0.1 * rng.normal(size=(100, 1))
    assert statistics.held_out_loss(known, happened, groups).mean() < 0.1
    lonely = groups == 0
    assert statistics.held_out_loss(known, lonely, groups) is None


def test_sign_flips_are_exact_for_few_pairs():
    assert statistics.sign_flip_p([1.0, 2.0, 3.0, 1.5, 2.5]) == pytest.approx(2 / 32)
    assert statistics.sign_flip_p([1.0, -1.0]) == pytest.approx(1.0)
    assert statistics.sign_flip_p([1.0]) == 1.0
