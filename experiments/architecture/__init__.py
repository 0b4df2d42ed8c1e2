# SPDX-License-Identifier: Apache-2.0
"""Diagrams and charts of the networks, drawn from the data that define them."""
