# SPDX-License-Identifier: Apache-2.0
"""Fast computations as pure functions of arrays, independent of modules and networks.

Tests compare the values and gradients of each with a plain counterpart in Flax.
"""
