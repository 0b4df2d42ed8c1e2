# SPDX-License-Identifier: Apache-2.0
"""Section 3.3: do wide residual networks die unless their residuals are scaled?

`python -m experiments.residual_scaling` trains the runs (`runs.py`) of a plan (`plans.py`)
with few compilations (`programs.py`, `runner.py`), determines the outcome of each
(`outcomes.py`) and records it (`records.py`). Verdicts on the paper's claims (`claims.py`)
and the report (`report.py`) are computed from the records alone.
"""
