# SPDX-License-Identifier: Apache-2.0
"""Scripts that start multi-host runs; see README.md."""
