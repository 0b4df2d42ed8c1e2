# SPDX-License-Identifier: Apache-2.0
"""The paper's claims, verdicts on them, and descriptions of the runs they rest on."""

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.residual_scaling.runs import PAPER_LEARNING_RATE, Run, describe_fields

MIN_SEEDS = 5  # at 5 of 5 against 0 of 5, Fisher's exact test gives p = 0.008

REPRODUCED = "reproduced"  # significant, as claimed
CONTRADICTED = "contradicted"  # significant, the opposite of the claim
NOT_REPRODUCED = "not reproduced"  # not significant, but the interval excludes the claim
UNDECIDED = "undecided"
NOT_TESTED = "not tested at this scale"
# The shapes can be distinguished without colour.
SYMBOLS = {
    REPRODUCED: "✔",
    CONTRADICTED: "✘",
    NOT_REPRODUCED: "△",
    UNDECIDED: "?",
    NOT_TESTED: "○",
}

CLAIMS = {
    1: "Unscaled networks of more than 1000 filters die, narrower ones survive",
    2: "The last layer before the pool gives only zeros, and stays so",
    3: "Networks die after a few tens of thousands of steps",
    4: "A lower learning rate does not prevent death",
    5: "Extra batch normalisation before the pool does not prevent death",
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
    """The evidence on one claim in one setting, and what follows from it."""

    number: int  # of the claim, see CLAIMS
    setting: str
    test: str
    evidence: str
    verdict: str
    qualifier: str = ""
    seeds: int = 0  # of the group that has fewer
    p: float | None = None
    p_holm: float | None = None  # corrected for all tests of a report
    excluded: bool = False  # whether an uncorrected interval excludes the claim
    details: tuple[str, ...] = ()  # one line per setting; p-values are not corrected

    @property
    def claim(self) -> str:
        """The text of the claim."""
        return CLAIMS[self.number]


def not_tested(number: int, reason: str, setting: str = "") -> Verdict:
    """Return the verdict on a claim for which runs are missing."""
    return Verdict(number, setting, "", reason, NOT_TESTED)


def rate_kind(rate: float) -> str:
    """Say how a learning rate compares with the paper's."""
    if math.isclose(rate, PAPER_LEARNING_RATE):
        return "the paper's"
    return "lower than the paper's" if rate < PAPER_LEARNING_RATE else "accelerated"


def rate_label(rate: float) -> str:
    """Describe a learning rate, as in "learning rate 0.2 (accelerated)"."""
    return f"learning rate {rate:g} ({rate_kind(rate)})"


def setting_label(run: Run) -> str:
    """Describe a setting without its scale."""
    shown = {"width": run.width, "learning_rate": run.learning_rate} | run.changes
    shown.pop("scale", None)
    return describe_fields(shown)


def describe_runs(runs: Iterable[Run]) -> str:
    """Describe several settings together, as in "digits, width 64/256, depth 10"."""
    runs = list(runs)
    words = ["/".join(sorted({run.data for run in runs}))]
    for name in ("width", "depth", "learning_rate", "steps"):
        values = sorted({getattr(run, name) for run in runs})
        words.append(f"{name.replace('_', ' ')} {'/'.join(f'{v:g}' for v in values)}")
        if name == "learning_rate" and len(values) == 1:
            words[-1] = rate_label(values[0])
    return ", ".join(words)


def format_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Format verdicts for a terminal, claim by claim."""
    lines, number = [], None
    for verdict in verdicts:
        if verdict.number != number:
            number = verdict.number
            lines.append(f"{number}. {verdict.claim}")
        word = ": ".join(filter(None, (verdict.verdict.upper(), verdict.qualifier)))
        words = "; ".join(filter(None, (verdict.setting, verdict.evidence)))
        indents = {"initial_indent": "   ", "subsequent_indent": " " * 6}
        lines += textwrap.wrap(f"{word}. {words}", 96, **indents)
    return "\n".join(lines)
