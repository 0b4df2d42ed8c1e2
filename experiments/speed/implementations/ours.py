# SPDX-License-Identifier: Apache-2.0
"""This package: the training step of a default run, and inference with `Network.apply`.

Both are compiled as in runs and predictions; for inference, batch norms are folded.
"""

import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.case import CLASSES, BuiltCase, Case, RunSteps
from inception_jax.config import RunConfig
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES
from inception_jax.models.network import Network
from inception_jax.models.summary import summarise
from inception_jax.runtime.devices import (
    compiler_options,
    describe,
    local_devices,
    peak_flops,
)
from inception_jax.runtime.parallel import data_parallel
from inception_jax.training.from_config import network_for, numbers_for, train_options
from inception_jax.training.state import TrainState, state_shapes
from inception_jax.training.step import train_step
from inception_jax.weights.folding import fold_variables
from inception_jax.weights.model_folder import Variables


def build(case: Case, *, fast: bool = True) -> BuiltCase:
    """Prepare the case on the first device. Raises ValueError for an unknown network.

    Without `fast`, layers are plain and batch norms are not folded.
    """
    config = RunConfig(
        network=case.network,
        batch_size=case.batch,
        dtype=case.dtype,
        image_size=case.image_size,
        fast=fast,
    )
    network = network_for(config, CLASSES, 1)
    channels = network.spec.image_shape[-1]
    state = filled_state(network, config)
    if case.task == "training":
        run = training(case, config, network, state)
    elif fast:
        variables = fold_variables(network.spec, state.raw_variables)
        run = inference(case, network.clone(folded=True), variables)
    else:
        run = inference(case, network, state.raw_variables)
    return BuiltCase(
        run=run,
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        peak=device_peak,
        macs=lambda: summarise(network, (case.image_size, case.image_size, channels)).macs,
    )


def training(
    case: Case, config: RunConfig, network: Network, state: TrainState
) -> RunSteps:
    """Return updates of a state on the device, from a batch that is already there."""
    options = train_options(config, network, NUM_TRAIN_IMAGES / case.batch)
    update = partial(train_step, options=options)
    step = data_parallel(update, config.parallel, local_devices()[:1])
    pixels = case.pixels(network.spec.image_shape[-1])
    batch = step.place({"image": pixels, "label": case.labels()})
    numbers = numbers_for(config)

    def run(steps: int) -> Any:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch, numbers)
        return jax.block_until_ready(metrics)

    return run


def inference(case: Case, network: Network, variables: Variables) -> RunSteps:
    """Return the computation of logits from images that are already on the device."""
    apply = jax.jit(
        lambda variables, x: network.apply(variables, x)[0],
        compiler_options=compiler_options(jax.default_backend()),
    )
    images = jax.device_put(case.images(network.spec.image_shape[-1]))
    variables = jax.device_put(variables)

    def run(steps: int) -> Any:
        for _ in range(steps):
            logits = apply(variables, images)
        return jax.block_until_ready(logits)

    return run


def filled_state(network: Network, config: RunConfig) -> TrainState:
    """Return a state with random kernels (He et al.), without compiling an initialiser."""
    rng = np.random.default_rng(0)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [getattr(key, "key", getattr(key, "name", "")) for key in path]
        if names[0] == "params" and names[-1] == "kernel":
            stddev = math.sqrt(2 / math.prod(leaf.shape[:-1]))
            kernel = rng.standard_normal(leaf.shape, np.float32) * np.float32(stddev)
            return kernel.astype(leaf.dtype)
        gamma_or_variance = names[-1] in ("scale", "var") and names[0] != "opt_state"
        mean_square = "nu" in names  # of RMSProp
        return np.full(leaf.shape, float(gamma_or_variance or mean_square), leaf.dtype)

    shapes = state_shapes(network, config.optimizer)
    state = jax.tree_util.tree_map_with_path(fill, shapes)
    return state._replace(ema_params=jax.tree.map(np.copy, state.params))


def device_peak() -> int | None:
    """Return the peak bytes in use on the device; None on a CPU."""
    statistics = local_devices()[0].memory_stats()
    return statistics and statistics["peak_bytes_in_use"]


def machine() -> dict[str, Any]:
    """Return the device, its vendor's peak and the rate of a large matrix multiplication.

    The multiplication is the best of three, in bfloat16, or in float32 on a CPU.
    """
    devices = local_devices()[:1]
    on_cpu = devices[0].platform == "cpu"
    size, dtype = (2048, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
    ones = jnp.ones((size, size), dtype)
    matmul = jax.jit(jnp.matmul).lower(ones, ones).compile()
    times = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        jax.block_until_ready([matmul(ones, ones) for _ in range(3)])
        times.append((time.perf_counter() - start) / 3)
    return {
        "device": describe(devices),
        "platform": devices[0].platform,
        "compiler_options": compiler_options(devices[0].platform),
        "peak_flops": peak_flops(devices),
        "product_flops": 2 * size**3 / min(times[1:]),
        "product": f"{size}x{size}x{size} in {jnp.dtype(dtype).name}",
    }
