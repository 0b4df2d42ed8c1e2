# SPDX-License-Identifier: Apache-2.0
"""Reproductions and ablations of the paper; README.md is the lab journal."""
