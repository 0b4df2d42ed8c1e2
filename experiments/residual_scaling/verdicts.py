# SPDX-License-Identifier: Apache-2.0
"""What a verdict on a claim of the paper holds, and its words."""

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.residual_scaling.runs import PAPER_LEARNING_RATE, Run, describe_field

MIN_SEEDS = 5  # 5 of 5 against 0 of 5 is the first split that Fisher's test tells apart

REPRODUCED = "reproduced"  # the test finds what the claim says
CONTRADICTED = "contradicted"  # the test finds the opposite
NOT_REPRODUCED = "not reproduced"  # enough runs, and an interval without the claim
UNDECIDED = "undecided"
NOT_TESTED = "not tested at this scale"

CLAIMS = {
    1: "Unscaled networks of more than 1000 filters die, narrower ones survive",
    2: "The last layer before the pool gives only zeros, and stays so",
    3: "Networks die after a few tens of thousands of steps",
    4: "A lower learning rate does not prevent it",
    5: "Extra batch normalisation of that layer does not prevent it",
    6: "Scaling the residuals by 0.1 to 0.3 stabilises the training",
    7: "Warm-up, even at a rate of 0.00001, is not reliable",
    8: "Scaling never seemed to harm the final accuracy",
    9: "Clipping the gradient helps to stabilise the training (AAAI version)",
    10: "Deeper networks need lower constants (AAAI version)",
    11: "Scaling works through the classifier's curvature alone (not in the paper)",
    12: "Residual connections speed up the training",
}


@dataclass(frozen=True)
class Verdict:
    """One claim in one setting: what was seen, and whether it bears the claim out."""

    number: int  # of the claim, see CLAIMS
    setting: str
    test: str
    evidence: str
    verdict: str
    qualifier: str = ""
    seeds: int = 0  # different ones on the side that has fewer
    p: float | None = None
    p_holm: float | None = None  # corrected for all verdicts of a report
    otherwise: str = UNDECIDED  # the verdict if p does not decide
    details: tuple[str, ...] = ()  # setting by setting; p-values not corrected

    @property
    def claim(self) -> str:
        """The claim in words."""
        return CLAIMS[self.number]


def not_tested(number: int, reason: str, setting: str = "") -> Verdict:
    """The row of a claim for which runs are missing."""
    return Verdict(number, setting, "", reason, NOT_TESTED)


def rate_kind(rate: float) -> str:
    """On which side of the paper's a learning rate is."""
    if math.isclose(rate, PAPER_LEARNING_RATE):
        return "the paper's"
    return "lower than the paper's" if rate < PAPER_LEARNING_RATE else "accelerated"


def rate_label(rate: float) -> str:
    """A learning rate: "learning rate 0.2 (accelerated)"."""
    return f"learning rate {rate:g} ({rate_kind(rate)})"


def setting_label(run: Run) -> str:
    """A setting in words, but for its scale."""
    shown = {"width": run.width, "learning_rate": run.learning_rate} | run.changes
    return ", ".join(describe_field(n, v) for n, v in shown.items() if n != "scale")


def describe_runs(runs: Iterable[Run]) -> str:
    """The settings of some runs in words: "digits, width 64/256, depth 10, ..."."""
    runs = list(runs)
    words = ["/".join(sorted({run.data for run in runs}))]
    for name in ("width", "depth", "learning_rate", "steps"):
        values = sorted({getattr(run, name) for run in runs})
        words.append(f"{name.replace('_', ' ')} {'/'.join(f'{v:g}' for v in values)}")
    return ", ".join(words)


def format_verdicts(verdicts: Iterable[Verdict]) -> str:
    """The verdicts for a terminal, claim by claim."""
    lines, number = [], None
    for verdict in verdicts:
        if verdict.number != number:
            number = verdict.number
            lines.append(f"{number}. {verdict.claim}")
        word = ": ".join(filter(None, (verdict.verdict.upper(), verdict.qualifier)))
        words = "; ".join(filter(None, (verdict.setting, verdict.evidence)))
        lines += textwrap.wrap(
            f"{word}. {words}", 96, initial_indent="   ", subsequent_indent=" " * 6
        )
    return "\n".join(lines)
