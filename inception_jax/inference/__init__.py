# SPDX-License-Identifier: Apache-2.0
"""Applying a trained model: predictions, features, evaluation."""
