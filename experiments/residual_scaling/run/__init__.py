# SPDX-License-Identifier: Apache-2.0
"""This folder trains the runs and records them."""
