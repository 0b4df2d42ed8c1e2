# SPDX-License-Identifier: Apache-2.0
"""This folder draws the figures and writes the reports."""
