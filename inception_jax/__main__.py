# SPDX-License-Identifier: Apache-2.0
"""`python -m inception_jax` is the command `inception-jax`."""

from inception_jax.cli.main import main

main()
