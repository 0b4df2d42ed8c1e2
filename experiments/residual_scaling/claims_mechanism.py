# SPDX-License-Identifier: Apache-2.0
"""Claim 11: is it through the curvature of the classifier's loss that scaling works?

Gradient descent with momentum m is stable up to a curvature of 2 (1 + m) / rate. So
x = rate x curvature / (2 (1 + m)), with the classifier's curvature before the first step,
should tell which arms are hurt, and scale, width and depth should add nothing to it.
"""

import math

import numpy as np
from sklearn.metrics import roc_auc_score

from experiments.residual_scaling.arms import Arm
from experiments.residual_scaling.comparisons import num_seeds, remedy, standard
from experiments.residual_scaling.outcomes import DYING, UNSTABLE
from experiments.residual_scaling.records import Record, Records, pick, probed
from experiments.residual_scaling.statistics import (
    bootstrap,
    held_out_loss,
    sign_flips,
)
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    not_tested,
    span,
)

CURVATURE = "curvature"  # the probed signal: largest eigenvalue of the classifier's block


def limit(arm: Arm) -> float:
    """Curvature above which steps along it grow: 2 (1 + momentum) / learning rate.

    Of gradient descent with momentum on a quadratic, at the learning rate of the
    classifier, whose block of the curvature is measured.
    """
    rate = arm.learning_rate * arm.classifier_rate
    return 2 * (1 + arm.momentum) / rate if rate else math.inf


def control_number(arm: Arm, record: Record) -> float:
    """x, see above; 1 is the edge of stability. NaN without a probe of the curvature."""
    values = probed(record, CURVATURE) if CURVATURE in record["probes"] else ()
    if not len(values):
        return math.nan
    return values[0] / limit(arm)


def claim_11(records: Records) -> list[Verdict]:
    """The number against the settings as predictors, and interventions at scale 1."""
    rows = [_predicts(records)]
    unscaled = pick(records, scale=1.0)
    for name, outcomes, claimed in (
        # The classifier's step is the trigger, the size of its input the cause ...
        ("classifier_rate", UNSTABLE, True),
        ("init_gain", UNSTABLE, True),
        ("classifier_rate", DYING, True),
        ("init_gain", DYING, True),
        # ... so slower residuals change nothing about the blow-up.
        ("linear_rate", UNSTABLE, False),
    ):
        arms = {a: r for a, r in unscaled.items() if getattr(a, name) <= 1}
        rows += remedy(11, standard(arms, name), outcomes, claimed=claimed, **{name: 1.0})
    return rows


def _predicts(records: Records) -> Verdict:
    numbers = {
        arm: x
        for arm, record in standard(records).items()
        if arm.scale and 0 < (x := control_number(arm, record)) < math.inf
    }
    setting = "which arms are scarred or worse"
    if not numbers:
        return not_tested(11, "no arm with a probe of the curvature", setting)
    arms = list(numbers)
    hurt = np.array([records[arm]["outcome"] in UNSTABLE for arm in arms])
    x = np.log([[numbers[arm]] for arm in arms])
    settings = np.log([[a.width, a.learning_rate, a.scale, a.depth] for a in arms])
    names = [arm.setting for arm in arms]
    groups = np.array([names.index(name) for name in names])
    losses = [held_out_loss(features, hurt, groups) for features in (x, settings)]
    if any(loss is None for loss in losses):
        reason = "too few settings with arms that were hurt, or with arms that were not"
        return not_tested(11, reason, setting)
    of_x, of_settings = losses
    differences = [
        float(np.mean((of_settings - of_x)[groups == group])) for group in np.unique(groups)
    ]
    gain = bootstrap(np.mean, differences)
    return Verdict(
        11,
        f"{setting}: {span(arms)}",
        "held-out log-loss by setting, logistic fits; signs of the differences flipped",
        f"log-loss {of_x.mean():.3f} by rate x curvature alone, {of_settings.mean():.3f} "
        f"by width, rate, scale and depth, difference {gain} over {len(differences)} "
        f"settings; AUC of rate x curvature {roc_auc_score(hurt, x[:, 0]):.3f}",
        REPRODUCED if gain.value > 0 else CONTRADICTED,
        "",
        num_seeds([arms]),
        sign_flips(differences),
    )
