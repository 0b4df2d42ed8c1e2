# SPDX-License-Identifier: Apache-2.0
"""`python -m inception_jax.planning.aot_worker`: compile a step for an absent TPU slice.

A process of its own, since libtpu serves one process at a time and would otherwise be
taken into the caller's. Reads a line of JSON, {"config": RunConfig, "topology": name};
writes one, {"compiled": ...}, {"refused": ...} or {"error": sentence}: see `aot`.
"""

import re
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from inception_jax.config import RunConfig
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES
from inception_jax.models.network import Network, get_spec
from inception_jax.models.summary import Summary, summarise
from inception_jax.planning.hlo import cost_by_module, read_movement
from inception_jax.planning.worker import answer_request
from inception_jax.runtime.parallel import DataParallel, devices_elsewhere, heeding
from inception_jax.storage.run_folder import from_json
from inception_jax.training.from_config import (
    network_for,
    numbers_for,
    preprocess_for,
    train_options,
)
from inception_jax.training.step import state_shapes, train_step


def compile_step(config: RunConfig, topology: str) -> dict[str, Any]:
    """The step of a run on ImageNet, compiled for the devices of `topology`, in figures.

    Raises ValueError where the network does not take the configuration.
    """
    devices = devices_elsewhere(topology)
    network = network_for(config, get_spec(config.network).num_classes, len(devices))
    lowered = lower_step(config, network, devices)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"refused": _refusal(error) | {"seconds": time.perf_counter() - start}}
    summary, text = (
        summarise(network, preprocess_for(config).image_shape),
        compiled.as_text(),
    )
    state = state_shapes(network, config.optimizer)
    return {
        "compiled": {
            "chips": len(devices),
            "seconds": time.perf_counter() - start,
            "memory": _memory(compiled.memory_analysis()),
            # The body of a loop, here one part of the batch, is counted once. The rest of
            # the step is below a thousandth of it.
            "flops": compiled.cost_analysis()["flops"] * config.accumulate,
            "movement": asdict(read_movement(text)),
            "stages": _stages(summary, text),
            "macs": summary.macs,
            "params": sum(x.size for x in jax.tree.leaves(state.params)),
            "statistics": sum(x.size for x in jax.tree.leaves(state.batch_stats)),
        }
    }


def lower_step(
    config: RunConfig, network: Network, devices: list[jax.Device]
) -> jax.stages.Lowered:
    """The step of a run on ImageNet, for devices that need not be here."""
    options = train_options(config, network, NUM_TRAIN_IMAGES / config.batch_size)
    update = heeding(partial(train_step, options=options))
    step = DataParallel(update, config.parallel, devices)
    state = state_shapes(network, config.optimizer)
    batch = _batch(config) | {"stop": jax.ShapeDtypeStruct((len(devices),), jnp.float32)}
    return step.lower(state, batch, jax.eval_shape(partial(numbers_for, config)))


def _stages(summary: Summary, text: str) -> list[dict[str, Any]]:
    """The fields of `aot.StageWork`."""
    found = cost_by_module(text, {name for row in summary.rows for name in row.names})
    stages = [(row.stage, row.macs, row.names) for row in summary.rows] + [("", 0, ("",))]
    return [
        {
            "stage": stage,
            "macs": macs,
            "hbm_bytes": sum(found[name].hbm_bytes for name in names),
            "cycles": sum(found[name].cycles for name in names),
        }
        for stage, macs, names in stages
    ]


def _batch(config: RunConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """As the input pipeline makes it."""
    count = (config.batch_size,)
    shapes = {"image": (*count, *preprocess_for(config).image_shape), "label": count}
    kinds = {"image": jnp.uint8, "label": jnp.int32, "color_seed": jnp.uint32}
    if config.augment.color:
        shapes["color_seed"] = count
    return {
        name: jax.ShapeDtypeStruct(shape, kinds[name]) for name, shape in shapes.items()
    }


def _memory(analysis: Any) -> dict[str, int]:
    names = {
        "arguments": "argument_size",
        "results": "output_size",
        "reused": "alias_size",
        "temporary": "temp_size",
        "code": "generated_code_size",
        "peak": "peak_memory",
    }
    return {ours: getattr(analysis, f"{name}_in_bytes") for ours, name in names.items()}


def _refusal(error: Exception) -> dict[str, int]:
    """What the compiler says of a program that is too large for the chip's HBM."""
    amount = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"Used {amount} of {amount} hbm", str(error)) or re.search(
        rf"temporaries \({amount}\) exceeds available HBM \({amount}\)", str(error)
    )
    if not found:
        raise error
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    sizes = [float(found[i]) * units[found[i + 1]] for i in (1, 3)]
    return {"needed": round(sizes[0]), "available": round(sizes[1])}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Of `compile_step`, from what JSON can hold."""
    return compile_step(from_json(RunConfig, request["config"]), request["topology"])


if __name__ == "__main__":
    answer_request(answer)
