# SPDX-License-Identifier: Apache-2.0
"""Ways to start a run of several processes; see README.md."""
