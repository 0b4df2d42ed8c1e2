# SPDX-License-Identifier: Apache-2.0
"""What the study trains and which claims it tests."""
