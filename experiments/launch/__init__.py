# SPDX-License-Identifier: Apache-2.0
"""Ways to start a run on several hosts, or as if on several; see README.md."""
