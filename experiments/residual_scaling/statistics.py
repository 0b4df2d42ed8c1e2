# SPDX-License-Identifier: Apache-2.0
"""Statistical tests and intervals behind the verdicts, all at the 5 % level."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

LEVEL = 0.05
RESAMPLES = 199  # of a bootstrap


@dataclass(frozen=True)
class Share:
    """A proportion: `count` of `total` runs."""

    count: int
    total: int

    @classmethod
    def of(cls, events: Iterable[bool]) -> "Share":
        """Count the events that happened."""
        events = list(events)
        return cls(sum(events), len(events))

    def __add__(self, other: "Share") -> "Share":
        return Share(self.count + other.count, self.total + other.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count}/{self.total} [{low:.2f}, {high:.2f}]"

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the proportion."""
        if not self.total:
            return 0.0, 1.0
        result = stats.binomtest(self.count, self.total)
        interval = result.proportion_ci(confidence_level=1 - LEVEL, method="wilson")
        return interval.low, interval.high


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; a bound is infinite if the data do not give one."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:.3g} [too few seeds]"
        value, low, high = rounded_alike(self.value, self.low, self.high)
        return f"{value} [{low}, {high}]"


def rounded_alike(*values: float) -> list[str]:
    """Format values with the same decimals, at most three significant digits in all."""
    largest = max(map(abs, values))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    while decimals and all(f"{value:.{decimals}f}".endswith("0") for value in values):
        decimals -= 1
    return [f"{value:.{decimals}f}" for value in values]


def format_p(p: float) -> str:
    """Format a p-value, as in "p = 0.012" and "p < 0.001"."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def majority_p(share: Share) -> float:
    """One-sided p-value of the exact binomial test that the proportion exceeds 1/2."""
    if not share.total:
        return 1.0
    return float(stats.binomtest(share.count, share.total, alternative="greater").pvalue)


def fisher_p(strata: Iterable[tuple[Share, Share]]) -> float:
    """Two-sided p-value of Fisher's exact test of the first shares against the second.

    With several strata it is the exact Cochran-Mantel-Haenszel test, whose statistic is the
    sum of the first counts given the margins of every stratum.
    """
    probabilities, observed = np.ones(1), 0
    for a, b in strata:
        if a.total and b.total:
            both = a + b
            counts = np.arange(both.count + 1)
            given = stats.hypergeom.pmf(counts, both.total, both.count, a.total)
            probabilities = np.convolve(probabilities, given)
            observed += a.count
    # The tolerance keeps equally rare tables in spite of rounding.
    as_rare = probabilities <= probabilities[observed] * (1 + 1e-7)
    return float(min(1.0, probabilities[as_rare].sum()))


def excess(strata: Iterable[tuple[Share, Share]]) -> float:
    """Events of the first shares minus those expected if both had equal probability."""
    return sum(
        a.count - a.total * (a.count + b.count) / (a.total + b.total)
        for a, b in strata
        if a.total and b.total
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test, from the numbers of discordant pairs."""
    return float(mcnemar_test([[0, only_first], [only_second, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing (Holm 1979)."""
    corrected = multipletests(p_values, LEVEL, method="holm")[1] if p_values else ()
    return [float(p) for p in corrected]


def paired_tost(differences: Sequence[float], bound: float) -> tuple[float, float]:
    """Run a paired TOST with margin `-bound`.

    Returns the p-value of "the mean is above `bound`" and that of equivalence; both are 1
    for fewer than three pairs.
    """
    if len(differences) < 3:
        return 1.0, 1.0
    mean = float(np.mean(differences))
    if np.std(differences) < 1e-12:  # without spread there is no t statistic
        return float(mean <= bound), float(abs(mean) >= -bound)
    zeros = np.zeros(len(differences))
    both, lower, _ = ttost_paired(np.asarray(differences), zeros, bound, -bound)
    return float(lower[1]), float(both)


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean with Student's 95 % interval, which is infinite for fewer than three values."""
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(values) < 3:
        return Estimate(mean, -np.inf, np.inf)
    spread = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
    return Estimate(mean, mean - float(spread), mean + float(spread))


def bootstrap(statistic: Callable[..., float], *columns: Sequence) -> Estimate:
    """Compute `statistic(*columns)` with a percentile bootstrap interval over the rows."""
    value = float(statistic(*columns))
    rows = np.arange(len(columns[0]))
    if len(rows) < 2:
        return Estimate(value, -np.inf, np.inf)
    arrays = [np.asarray(column) for column in columns]
    interval = stats.bootstrap(
        (rows,),
        lambda chosen: statistic(*(array[chosen] for array in arrays)),
        n_resamples=RESAMPLES,
        confidence_level=1 - LEVEL,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def censored(times: Sequence[float], happened: Sequence[bool]) -> stats.CensoredData:
    """Right-censored times: of the event, or of the last observation without it."""
    times, happened = np.asarray(times, float), np.asarray(happened, bool)
    return stats.CensoredData(uncensored=times[happened], right=times[~happened])


def median_time(times: Sequence[float], happened: Sequence[bool]) -> Estimate:
    """Kaplan-Meier median with its log-log interval; infinite if half never happen."""
    curve = stats.ecdf(censored(times, happened)).sf
    # The interval is undefined where all or none remain; the curve replaces it below.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        interval = curve.confidence_interval(method="log-log")

    def first(bound: np.ndarray) -> float:
        bound = np.where(np.isnan(bound), curve.probabilities, bound)
        reached = curve.quantiles[bound <= 0.5 + 1e-12]
        return float(reached[0]) if len(reached) else float("inf")

    ends = (interval.low.probabilities, interval.high.probabilities)
    return Estimate(first(curve.probabilities), *map(first, ends))


def format_median(times: Sequence[float], happened: Sequence[bool]) -> str:
    """Format a Kaplan-Meier median of steps, as in "70 [60, > 80]"."""
    end, median = max(times), median_time(times, happened)
    if median.value == np.inf:
        return f"> {end:g}" if any(happened) else f"never reached within {end:g} steps"
    bounds = (median.low, median.high)
    low, high = (f"> {end:g}" if x == np.inf else f"{x:g}" for x in bounds)
    return f"{median.value:g} [{low}, {high}]"


def log_rank_p(strata: Iterable[tuple[stats.CensoredData, stats.CensoredData]]) -> float:
    """One-sided p-value of the log-rank test that the first events come sooner.

    Strata are combined by Stouffer's method. Returns 0.5 if there are no events.
    """
    p_values: list[float] = []
    for first, second in strata:
        if first.num_censored() < len(first) or second.num_censored() < len(second):
            with np.errstate(invalid="ignore"):  # 0/0 if all events are simultaneous
                p = stats.logrank(first, second, alternative="greater").pvalue
            p_values += [] if np.isnan(p) else [float(p)]
    return float(stats.combine_pvalues(p_values or [0.5], method="stouffer").pvalue)


def threshold(values: Sequence[float], happened: Sequence[bool]) -> Estimate | None:
    """Value at which a logistic fit on log2 of `values` gives 1/2.

    Returns None if the fit does not rise; bounds are clipped to the range of `values`.
    """
    logs, happened = np.log2(values), np.asarray(happened, float)

    def rises(logs: np.ndarray, happened: np.ndarray) -> bool:
        return np.cov(logs, happened)[0, 1] > 1e-9

    def fit(logs: np.ndarray, happened: np.ndarray) -> float:
        if not rises(logs, happened):
            return logs.min() if happened.all() else logs.max()
        middle, model = logs.mean(), LogisticRegression(C=1e3, solver="newton-cholesky")
        model.fit(logs[:, None] - middle, happened)
        return float(middle - model.intercept_[0] / model.coef_[0, 0])

    if len(logs) < 2 or not rises(logs, happened):
        return None
    # newton-cholesky warns and falls back to lbfgs if it starts at the optimum.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        estimate = bootstrap(fit, logs, happened)
    # For separated groups the data only bound the threshold by the gap between them.
    low = min(estimate.low, logs[happened == 0].max())
    high = max(estimate.high, logs[happened == 1].min())
    ends = np.clip([estimate.value, low, high], logs.min(), logs.max())
    return Estimate(*(float(2.0**end) for end in ends))


def held_out_loss(
    features: np.ndarray, happened: np.ndarray, groups: np.ndarray
) -> np.ndarray | None:
    """Log-loss `[n]` of logistic fits to the other groups; `features` are `[n, k]`.

    Uses ten folds, or one per group if there are fewer. Returns None if the training part
    of a fold has a single outcome.
    """
    folds = min(10, len(np.unique(groups)))
    if folds < 2:
        return None
    splits = list(GroupKFold(folds).split(features, happened, groups))
    if any(len(np.unique(happened[train])) < 2 for train, _ in splits):
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression())
    options = {"cv": splits, "method": "predict_proba"}
    predicted = cross_val_predict(model, features, happened, **options)
    return -np.log(np.where(happened, predicted[:, 1], predicted[:, 0]))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the sign-flip test that the mean difference is 0."""
    if len(differences) < 2:
        return 1.0
    result = stats.permutation_test(
        (np.asarray(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)
