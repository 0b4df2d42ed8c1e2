# SPDX-License-Identifier: Apache-2.0
"""Memory and cost of a training run on a TPU slice, before it is rented."""
