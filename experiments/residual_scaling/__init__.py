# SPDX-License-Identifier: Apache-2.0
"""Section 3.3: do wide residual networks die without scaled residuals, and not with?

`python -m experiments.residual_scaling` trains the arms of `study.py` (`runner.py`),
labels what happened to each (`outcomes.py`), holds them against the paper's claims
(`claims.py`) and draws them (`figure.py`).
"""
