# SPDX-License-Identifier: Apache-2.0
"""Estimates of the memory and time of a training step on an absent TPU slice.

JAX can compile a program "ahead of time" for absent devices: libtpu, the TPU compiler,
needs only the name of the slice. The compiled program states its memory and its
operations, from which `roofline` computes lower bounds of its time.
"""
