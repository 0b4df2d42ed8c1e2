# SPDX-License-Identifier: Apache-2.0
"""The paper's claims that this study tests, and what its arms say of each.

Verdicts are computed: from exact tests (Fisher) and intervals (Wilson, Student's t) over
the seeds, at a level of 5 %. Several claims are tested at once and not corrected for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from experiments.residual_scaling.outcomes import DYING, Outcome
from experiments.residual_scaling.runner import ArmRecord, test_accuracy
from experiments.residual_scaling.study import PAPER_LEARNING_RATE, PAPER_WIDTH, Arm

LEVEL = 0.05
MARGIN = 0.005  # half a point of accuracy is no harm
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
UNDECIDED = "undecided"

UNSTABLE = (*DYING, Outcome.CHANCE, Outcome.SCARRED)

DIES = "Unscaled networks of more than 1000 filters die: only zeros before the pool"
SAVES = "Scaling the residuals by 0.1 to 0.3 keeps the network alive"
CALMS = "Scaling the residuals by 0.1 to 0.3 stabilises the training"
THRESHOLD = "The trouble begins above 1000 filters"
NO_HARM = "Scaling never seemed to harm the accuracy (here: after these few steps)"

Records = dict[Arm, ArmRecord]


@dataclass(frozen=True)
class Verdict:
    """One claim at one learning rate: what was seen, and whether it bears the claim out."""

    claim: str
    setting: str
    evidence: str
    verdict: str


@dataclass(frozen=True)
class Share:
    """`count` of `total` arms."""

    count: int
    total: int

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

    @property
    def rest(self) -> int:
        """Arms that are not counted."""
        return self.total - self.count


def share(records: Iterable[ArmRecord], outcomes: Iterable[Outcome] = DYING) -> Share:
    """How many of `records` ended in one of `outcomes`."""
    labels = [record["outcome"] for record in records]
    return Share(sum(label in tuple(outcomes) for label in labels), len(labels))


def pick(records: Records, **fixed: float) -> dict[Arm, ArmRecord]:
    """Arms whose fields have the given values."""
    return {
        arm: record
        for arm, record in records.items()
        if all(getattr(arm, name) == value for name, value in fixed.items())
    }


def judge(records: Records) -> list[Verdict]:
    """Verdicts on all claims that the arms on record can speak to."""
    rates = sorted({arm.learning_rate for arm in records})
    widths = sorted({arm.width for arm in records})
    scales = sorted({a.scale for a in records if 0.1 <= a.scale <= 0.3}, reverse=True)
    wide = [width for width in widths if width > PAPER_WIDTH]
    verdicts = []
    for rate in rates:
        verdicts += [_wide_dies(records, width, rate) for width in wide]
    settings = list(product(rates, wide or widths[-1:], scales))
    verdicts += [_scaling_helps(records, *s, SAVES, DYING) for s in settings]
    verdicts += [_scaling_helps(records, *s, CALMS, UNSTABLE) for s in settings]
    if wide and len(widths) > len(wide):
        verdicts += [_only_wide(records, wide[0], rate) for rate in rates]
    verdicts += [_no_harm(records, scale, rate) for rate, scale in product(rates, scales)]
    return verdicts


def rate_in_words(rate: float) -> str:
    """A learning rate, and whether it is the paper's."""
    kind = "the paper's" if rate == PAPER_LEARNING_RATE else "accelerated"
    return f"learning rate {rate:g} ({kind})"


def _wide_dies(records: Records, width: int, rate: float) -> Verdict:
    arms = pick(records, width=width, scale=1.0, learning_rate=rate).values()
    dead, half = share(arms, (Outcome.DEAD, Outcome.DIVERGED)), share(arms)
    if dead.interval[0] > 0.5:
        verdict = REPRODUCED
    elif half.interval[0] > 0.5:
        verdict = "in part: channels die, not all of them"
    elif half.interval[1] < 0.5:
        verdict = NOT_REPRODUCED
    else:
        verdict = UNDECIDED
    return Verdict(
        DIES,
        f"width {width}, scale 1, {rate_in_words(rate)}",
        f"dead {dead}, half dead or worse {half}",
        verdict,
    )


def _scaling_helps(
    records: Records,
    rate: float,
    width: int,
    scale: float,
    claim: str,
    outcomes: tuple[Outcome, ...],
) -> Verdict:
    """Are there fewer bad `outcomes` with scaled residuals than without?"""
    dying = outcomes == DYING
    word, meaning = (
        ("died", "half dead or worse") if dying else ("was hurt", "scarred or worse")
    )
    arms = pick(records, width=width, learning_rate=rate)
    without = share(pick(arms, scale=1.0).values(), outcomes)
    with_it = share(pick(arms, scale=scale).values(), outcomes)
    p = _fisher(without, with_it)
    if p < LEVEL:
        verdict = REPRODUCED if without.count > with_it.count else "contradicted"
    elif without.count == 0:
        verdict = f"not tested: no unscaled network {word}"
    else:
        verdict = UNDECIDED
    return Verdict(
        claim,
        f"width {width}, scale {scale:g} against 1, {rate_in_words(rate)}",
        f"{meaning}: {without} without, {with_it} with, p = {p:.3f}",
        verdict,
    )


def _only_wide(records: Records, width: int, rate: float) -> Verdict:
    unscaled = pick(records, scale=1.0, learning_rate=rate)
    narrow = share(record for arm, record in unscaled.items() if arm.width <= PAPER_WIDTH)
    wide = share(record for arm, record in unscaled.items() if arm.width >= width)
    p = _fisher(narrow, wide)
    if p < LEVEL and wide.count > narrow.count:
        verdict = REPRODUCED if narrow.interval[1] < 0.5 else "in part: narrow ones die too"
    elif narrow.interval[0] > 0.5:
        verdict = "contradicted: narrow ones die too"
    else:
        verdict = NOT_REPRODUCED if p >= LEVEL else "contradicted"
    return Verdict(
        THRESHOLD,
        f"scale 1, {rate_in_words(rate)}",
        f"half dead or worse: {narrow} below 1000, {wide} above, p = {p:.3f}",
        verdict,
    )


def _no_harm(records: Records, scale: float, rate: float) -> Verdict:
    """Paired differences of accuracy, width by width: pooled, the networks that scaling
    saved at one width would hide what it costs at another."""
    words, lows, highs = [], {}, {}
    for width in sorted({arm.width for arm in records}):
        differences = [
            test_accuracy(record) - test_accuracy(records[partner])
            for arm, record in pick(
                records, scale=scale, learning_rate=rate, width=width
            ).items()
            if (partner := Arm(width, 1.0, rate, arm.seed)) in records
        ]
        if len(differences) < 3:
            words.append(f"width {width}: {len(differences)} pairs")
            lows[width], highs[width] = -1.0, 1.0
            continue
        center = float(np.mean(differences))
        spread = stats.t.ppf(1 - LEVEL / 2, len(differences) - 1) * stats.sem(differences)
        lows[width], highs[width] = center - spread, center + spread
        words.append(
            f"width {width}: {100 * center:+.1f} points "
            f"[{100 * lows[width]:+.1f}, {100 * highs[width]:+.1f}]"
        )
    harmed = [str(width) for width, high in highs.items() if high < -MARGIN]
    if harmed:
        verdict = f"contradicted at width {', '.join(harmed)}"
    else:
        verdict = REPRODUCED if min(lows.values()) > -MARGIN else UNDECIDED
    setting = f"scale {scale:g} against 1, {rate_in_words(rate)}"
    return Verdict(NO_HARM, setting, "; ".join(words), verdict)


def _fisher(a: Share, b: Share) -> float:
    """Two-sided p-value of Fisher's exact test; 5 of 5 against 0 of 5 gives 0.008."""
    return float(stats.fisher_exact([[a.count, a.rest], [b.count, b.rest]]).pvalue)
