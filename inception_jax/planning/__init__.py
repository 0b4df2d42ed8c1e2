# SPDX-License-Identifier: Apache-2.0
"""Estimates of memory and time of a training step on a TPU slice that is not attached.

JAX can compile a program for devices that are absent ("ahead of time"): libtpu, the TPU
compiler, needs only the name of the slice. The compiled program states its memory and its
operations; `roofline` turns them into lower bounds of its time.
"""
