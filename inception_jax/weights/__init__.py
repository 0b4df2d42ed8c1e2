# SPDX-License-Identifier: Apache-2.0
"""Weights of other people's libraries, read into this package's networks."""
