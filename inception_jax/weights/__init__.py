# SPDX-License-Identifier: Apache-2.0
"""Weights of this package and of other libraries: files, conversion and folding."""
