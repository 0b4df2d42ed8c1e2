# SPDX-License-Identifier: Apache-2.0
"""Devices and processes: mapping steps over devices, starting hosts, watching, stopping."""
