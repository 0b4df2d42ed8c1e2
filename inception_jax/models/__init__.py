# SPDX-License-Identifier: Apache-2.0
"""The paper's blocks and networks: one file for each box of the schema."""
