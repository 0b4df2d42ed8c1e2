# SPDX-License-Identifier: Apache-2.0
"""This folder defines the settings, the claims and the plans of the study."""
