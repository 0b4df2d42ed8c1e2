# SPDX-License-Identifier: Apache-2.0
"""Section 3.3: do wide residual networks die without scaled residuals, and not with?

`python -m experiments.residual_scaling` trains the runs (`runs.py`) of a plan (`plans.py`)
with few compilations (`programs.py`, `runner.py`), labels what happened to each
(`outcomes.py`) and puts it on record (`records.py`). From the record alone come the
verdicts on the paper's claims (`claims.py`) and the report (`report.py`).
"""
