# SPDX-License-Identifier: Apache-2.0
"""Files of training runs: the run folder, checkpoints, records and the lock."""
