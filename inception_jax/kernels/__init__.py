# SPDX-License-Identifier: Apache-2.0
"""Fast computations as pure functions of arrays; they know no module and no network."""
