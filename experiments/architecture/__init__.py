# SPDX-License-Identifier: Apache-2.0
"""Pictures of the networks, drawn from the data that they are built of."""
