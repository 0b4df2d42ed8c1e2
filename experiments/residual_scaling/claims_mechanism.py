# SPDX-License-Identifier: Apache-2.0
"""Claim 11: does scaling work through the curvature of the classifier's loss?

Gradient descent with momentum m is stable up to a curvature of 2 (1 + m) / rate. If the
claim holds, the control number rate x curvature / (2 (1 + m)), with the classifier's
curvature before the first step, predicts which runs become unstable, and scale, width and
depth add nothing.
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
from experiments.residual_scaling.statistics import bootstrap, held_out_loss, sign_flip_p
from experiments.residual_scaling.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    Verdict,
    describe_runs,
    not_tested,
)


def limit(run: Run) -> float:
    """Largest stable curvature of gradient descent on a quadratic: 2 (1 + momentum) / rate.

    The rate is that of the classifier, whose block of the curvature is measured.
    """
    rate = run.learning_rate * run.classifier_rate
    return 2 * (1 + run.momentum) / rate if rate else math.inf


def control_number(run: Run, record: Record) -> float:
    """Curvature before the first step over its limit; NaN if it was not probed."""
    if "curvature" not in record["probes"]:
        return math.nan
    return signal(record, "curvature")[0] / limit(run)


def claim_11(records: Records) -> list[Verdict]:
    """Compare the control number with the settings as predictors; test interventions."""
    rows = [_predicts(records)]
    unscaled = select(records, scale=1.0)
    for name, outcomes, claimed in (
        # The classifier's step is the trigger, the size of its input the cause ...
        ("classifier_rate", UNSTABLE, True),
        ("init_gain", UNSTABLE, True),
        ("classifier_rate", FAILED, True),
        ("init_gain", FAILED, True),
        # ... so a lower rate of the residuals should not help.
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
    setting = "which runs become unstable"
    if not numbers:
        return not_tested(11, "no run has a probe of the curvature", setting)
    runs = list(numbers)
    unstable = np.array([records[run]["outcome"] in UNSTABLE for run in runs])
    x = np.log([[numbers[run]] for run in runs])
    settings = np.log([[a.width, a.learning_rate, a.scale, a.depth] for a in runs])
    names = [run.setting for run in runs]
    groups = np.array([names.index(name) for name in names])
    of_x = held_out_loss(x, unstable, groups)
    of_settings = held_out_loss(settings, unstable, groups)
    if of_x is None or of_settings is None:
        reason = "too few settings with unstable runs or with healthy ones"
        return not_tested(11, reason, setting)
    gains = of_settings - of_x
    differences = [float(np.mean(gains[groups == group])) for group in np.unique(groups)]
    gain = bootstrap(np.mean, differences)
    return Verdict(
        11,
        f"{setting}: {describe_runs(runs)}",
        "held-out log-loss of logistic fits by setting, sign-flip test",
        f"log-loss {of_x.mean():.3f} from rate x curvature alone, {of_settings.mean():.3f} "
        f"from width, rate, scale and depth, difference {gain} over {len(differences)} "
        f"settings; AUC of rate x curvature {roc_auc_score(unstable, x[:, 0]):.3f}",
        REPRODUCED if gain.value > 0 else CONTRADICTED,
        seeds=num_seeds([runs]),
        p=sign_flip_p(differences),
    )
