# SPDX-License-Identifier: Apache-2.0
"""Section 3.3: do wide residual networks die unless their residuals are scaled?

`python -m experiments.residual_scaling` trains the runs of a plan and reports on the claims.

`design` defines settings, claims and plans; `run` trains and records the runs; `judge`
computes outcomes and tests from the records; `show` draws the figures and writes the report.
"""
