# SPDX-License-Identifier: Apache-2.0
"""Training: the step, the optimizer, the loop and what it records."""
