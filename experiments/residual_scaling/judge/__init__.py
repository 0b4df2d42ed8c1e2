# SPDX-License-Identifier: Apache-2.0
"""Outcomes, tables and tests."""
