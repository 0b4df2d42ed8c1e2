# SPDX-License-Identifier: Apache-2.0
"""What `python -m experiments.finetune` makes of a complete run: its model, a report."""
