# SPDX-License-Identifier: Apache-2.0
"""Fast computations as pure functions of arrays; they know no module and no network.

Each has a plain counterpart in Flax that a test compares it with, values and gradients.
"""
