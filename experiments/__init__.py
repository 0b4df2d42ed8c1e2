# SPDX-License-Identifier: Apache-2.0
"""Reproductions of the paper and further experiments; README.md lists them."""
