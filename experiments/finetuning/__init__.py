# SPDX-License-Identifier: Apache-2.0
"""The model and the report that `python -m experiments.finetune` writes."""
