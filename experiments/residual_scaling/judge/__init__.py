# SPDX-License-Identifier: Apache-2.0
"""This folder computes outcomes, tables and tests from the records."""
