# SPDX-License-Identifier: Apache-2.0
"""How fast the networks are, side by side with others' and with their plain form.

`python -m experiments.speed` measures. `case` says what, `sides` has a file for each side,
`worker` is the process that a side runs in, `turns` has the sides take turns, `report`
makes the tables. Elsewhere: images/s of the input pipeline, `inception-jax data bench`;
cost of the study per arm, `python -m experiments.residual_scaling.bench`; figures of the
real compiler for a TPU, `inception-jax plan`.
"""
