# SPDX-License-Identifier: Apache-2.0
"""Claim 11: is it through the curvature of the classifier's loss that scaling works?

Gradient descent with momentum m is stable up to a curvature of 2 (1 + m) / rate. So
x = rate x curvature / (2 (1 + m)), with the classifier's curvature before the first step,
should tell which runs are hurt, and scale, width and depth should add nothing to it.
"""

import math

import numpy as np
from sklearn.metrics import roc_auc_score

from experiments.residual_scaling.comparisons import (
    compare_each_change,
    num_seeds,
    without_remedies,
)
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE
from experiments.residual_scaling.records import Record, Records, select, signal
from experiments.residual_scaling.runs import Run
from experiments.residual_scaling.statistics import (
    bootstrap,
    held_out_loss,
    sign_flip_p,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
)

CURVATURE = "curvature"  # a probe signal: largest eigenvalue of the classifier's block


def limit(run: Run) -> float:
    """Curvature above which steps along it grow: 2 (1 + momentum) / learning rate.

    Of gradient descent with momentum on a quadratic, at the learning rate of the
    classifier, whose block of the curvature is measured.
    """
    rate = run.learning_rate * run.classifier_rate
    return 2 * (1 + run.momentum) / rate if rate else math.inf


def control_number(run: Run, record: Record) -> float:
    """x, see above; 1 is the edge of stability. NaN without a probe of the curvature."""
    values = signal(record, CURVATURE) if CURVATURE in record["probes"] else ()
    if not len(values):
        return math.nan
    return values[0] / limit(run)


def claim_11(records: Records) -> list[Verdict]:
    """The number against the settings as predictors, and interventions at scale 1."""
    rows = [_predicts(records)]
    unscaled = select(records, scale=1.0)
    for name, outcomes, claimed in (
        # The classifier's step is the trigger, the size of its input the cause ...
        ("classifier_rate", UNSTABLE, True),
        ("init_gain", UNSTABLE, True),
        ("classifier_rate", FAILED, True),
        ("init_gain", FAILED, True),
        # ... so slower residuals change nothing about the blow-up.
        ("linear_rate", UNSTABLE, False),
    ):
        runs = {a: r for a, r in unscaled.items() if getattr(a, name) <= 1}
        rows += compare_each_change(
            11, without_remedies(runs, name), outcomes, claimed=claimed, **{name: 1.0}
        )
    return rows


def _predicts(records: Records) -> Verdict:
    numbers = {
        run: x
        for run, record in without_remedies(records).items()
        if run.scale and 0 < (x := control_number(run, record)) < math.inf
    }
    setting = "which runs are scarred or worse"
    if not numbers:
        return not_tested(11, "no run with a probe of the curvature", setting)
    runs = list(numbers)
    hurt = np.array([records[run]["outcome"] in UNSTABLE for run in runs])
    x = np.log([[numbers[run]] for run in runs])
    settings = np.log([[a.width, a.learning_rate, a.scale, a.depth] for a in runs])
    names = [run.setting for run in runs]
    groups = np.array([names.index(name) for name in names])
    losses = [held_out_loss(features, hurt, groups) for features in (x, settings)]
    if any(loss is None for loss in losses):
        reason = "too few settings with runs that were hurt, or with runs that were not"
        return not_tested(11, reason, setting)
    of_x, of_settings = losses
    differences = [
        float(np.mean((of_settings - of_x)[groups == group])) for group in np.unique(groups)
    ]
    gain = bootstrap(np.mean, differences)
    return Verdict(
        11,
        f"{setting}: {describe_runs(runs)}",
        "held-out log-loss by setting, logistic fits; signs of the differences flipped",
        f"log-loss {of_x.mean():.3f} by rate x curvature alone, {of_settings.mean():.3f} "
        f"by width, rate, scale and depth, difference {gain} over {len(differences)} "
        f"settings; AUC of rate x curvature {roc_auc_score(hurt, x[:, 0]):.3f}",
        REPRODUCED if gain.value > 0 else CONTRADICTED,
        "",
        num_seeds([runs]),
        sign_flip_p(differences),
    )
