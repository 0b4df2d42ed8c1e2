# SPDX-License-Identifier: Apache-2.0
"""Devices and processes: parallel steps, several hosts, time accounting and stopping.

On a pod every host runs the whole program. `hosts` connects the processes, `parallel` maps
a step over the devices of all hosts, and `watchdog` ends a run whose hosts hang. Code for
process 0 only, such as writing checkpoints, is marked by `jax.process_index() == 0`.
"""
