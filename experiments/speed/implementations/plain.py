# SPDX-License-Identifier: Apache-2.0
"""This package with its plain layers: stock Flax, and inference without folding."""

from experiments.speed.case import BuiltCase, Case
from experiments.speed.implementations import ours


def build(case: Case) -> BuiltCase:
    """Prepare the case as `ours.build` does, with `fast=False`."""
    return ours.build(case, fast=False)
