# SPDX-License-Identifier: Apache-2.0
"""The placement of a batch before its step does not change the result."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import ParallelConfig
from inception_jax.runtime.parallel import data_parallel


def weighted(state: jax.Array, batch: dict, numbers: jax.Array, axis_name: str):
    place = jnp.arange(batch["x"].shape[0]) + 10 * jax.lax.axis_index("data")
    return jax.lax.psum(jnp.sum(state * numbers * place * batch["x"]), axis_name)


@pytest.mark.parametrize("wrapper", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_in_numpy_in_jax_and_placed(wrapper, devices):
    x = np.arange(8, dtype=np.float32)
    config = ParallelConfig(wrapper)
    run = data_parallel(weighted, config, jax.devices()[:devices], donate=False)
    step = partial(run, jnp.float32(2.0), numbers=jnp.float32(3.0))
    each = 8 // devices
    place = np.arange(8) % each + 10 * (np.arange(8) // each)
    expected = 6 * np.sum(place * x)
    for batch in ({"x": x}, {"x": jnp.asarray(x)}, run.place({"x": x})):
        assert float(step(batch=batch)) == expected
    placed = run.place({"x": x})
    assert run.place(placed)["x"] is placed["x"]
