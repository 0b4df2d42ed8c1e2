# SPDX-License-Identifier: Apache-2.0
"""The `inception-jax` command: one module for each group of subcommands."""
