# SPDX-License-Identifier: Apache-2.0
"""A benchmark of training and inference against timm, Keras and plain Flax layers.

`python -m experiments.speed` measures. `case` defines what is measured; `implementations`
has one file for each implementation. `worker` runs one implementation in a process that
`process` starts, `timing` alternates between these processes, and `report` makes the
tables. `chart` draws the committed results. Other benchmarks: `inception-jax data bench`
(input pipeline), `inception-jax plan` (estimates of the TPU compiler).
"""
