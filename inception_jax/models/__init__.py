# SPDX-License-Identifier: Apache-2.0
"""The paper's blocks and networks; README.md says which figure is in which file."""
