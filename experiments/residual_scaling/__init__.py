# SPDX-License-Identifier: Apache-2.0
"""Section 3.3: do wide residual networks die unless their residuals are scaled?

`python -m experiments.residual_scaling` trains the runs of a plan and tests the claims.

`design` defines settings, claims and plans; `run` trains and records the runs; `judge`
computes outcomes and tests from the records; `show` draws figures and writes reports.
"""
