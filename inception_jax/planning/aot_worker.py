# SPDX-License-Identifier: Apache-2.0
"""The worker process of `aot`, which compiles a training step for an absent TPU slice.

`python -m inception_jax.planning.aot_worker` reads one line of JSON from standard input,
{"config": RunConfig, "topology": name}, and prints one: {"compiled": CompiledStep},
{"refused": TooLarge} or {"error": message}.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from inception_jax.config import RunConfig
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES
from inception_jax.models.network import Network
from inception_jax.models.summary import Summary, summarise
from inception_jax.models.zoo import get_spec
from inception_jax.planning.hlo import cost_by_module, read_movement
from inception_jax.runtime.collectives import with_stop_flag
from inception_jax.runtime.devices import compile_only_tpus
from inception_jax.runtime.parallel import ShardMapStep
from inception_jax.storage.run_folder import dataclass_from_json
from inception_jax.training.from_config import (
    network_for,
    numbers_for,
    preprocess_for,
    train_options,
)
from inception_jax.training.state import state_shapes
from inception_jax.training.step import train_step


def compile_step(config: RunConfig, topology: str) -> dict[str, Any]:
    """Compile the training step of a run on ImageNet; return the fields of `CompiledStep`.

    If the step does not fit in memory, return those of `TooLarge`. Raises ValueError if the
    network does not support the configuration.
    """
    devices = compile_only_tpus(topology)
    network = network_for(config, get_spec(config.network).num_classes, len(devices))
    lowered = lower_step(config, network, devices)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = parse_out_of_memory(error)
        return {"refused": sizes | {"seconds": time.perf_counter() - start}}
    summary = summarise(network, preprocess_for(config).image_shape)
    hlo: Any = compiled.as_text()
    cost: Any = compiled.cost_analysis()
    state = state_shapes(network, config.optimizer, config.parallel.stale_replicas)
    return {
        "compiled": {
            "chips": len(devices),
            "seconds": time.perf_counter() - start,
            "memory": _memory(compiled.memory_analysis()),
            # XLA counts the body of a loop once. With `accumulate`, nearly the whole step
            # is the body of the loop over the parts of the batch.
            "flops": cost["flops"] * config.accumulate,
            "movement": asdict(read_movement(hlo)),
            "stages": stage_work(summary, hlo),
            "macs": summary.macs,
            "params": sum(x.size for x in jax.tree.leaves(state.params)),
            "statistics": sum(x.size for x in jax.tree.leaves(state.batch_stats)),
        }
    }


def lower_step(
    config: RunConfig, network: Network, devices: list[jax.Device]
) -> jax.stages.Lowered:
    """Lower the training step of a run on ImageNet for devices that may be absent."""
    options = train_options(config, network, NUM_TRAIN_IMAGES / config.batch_size)
    update = with_stop_flag(partial(train_step, options=options))
    step = ShardMapStep(update, config.parallel, devices)
    state = state_shapes(network, config.optimizer, config.parallel.stale_replicas)
    size = config.batch_size
    batch = {
        "image": ShapeDtypeStruct((size, *preprocess_for(config).image_shape), jnp.uint8),
        "label": ShapeDtypeStruct((size,), jnp.int32),
        "stop": ShapeDtypeStruct((len(devices),), jnp.float32),
    }
    if config.augment.color:
        batch["color_seed"] = ShapeDtypeStruct((size,), jnp.uint32)
    return step.lower(state, batch, jax.eval_shape(partial(numbers_for, config)))


def stage_work(summary: Summary, hlo: str) -> list[dict[str, Any]]:
    """Return the fields of `StageWork` for each stage, and for the rest of the step."""
    modules = {name for row in summary.rows for name in row.names}
    costs = cost_by_module(hlo, modules)
    stages = [(row.stage, row.macs, row.names) for row in summary.rows]
    stages.append(("", 0, ("",)))
    return [
        {
            "stage": stage,
            "macs": macs,
            "hbm_bytes": sum(costs[name].hbm_bytes for name in names),
            "cycles": sum(costs[name].cycles for name in names),
        }
        for stage, macs, names in stages
    ]


def _memory(analysis: Any) -> dict[str, int]:
    return {
        "arguments": analysis.argument_size_in_bytes,
        "results": analysis.output_size_in_bytes,
        "reused": analysis.alias_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
        "peak": analysis.peak_memory_in_bytes,
    }


def parse_out_of_memory(error: Exception) -> dict[str, int]:
    """Return the bytes that the compiler's message gives; raise `error` if it has none."""
    amount = r"([\d.]+)([KMGT]?)"
    match = re.search(rf"Used {amount} of {amount} hbm", str(error)) or re.search(
        rf"temporaries \({amount}\) exceeds available HBM \({amount}\)", str(error)
    )
    if not match:
        raise error
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, needed_unit, available, available_unit = match.groups()
    return {
        "needed": round(float(needed) * units[needed_unit]),
        "available": round(float(available) * units[available_unit]),
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to a request, both as JSON values."""
    config = dataclass_from_json(RunConfig, request["config"])
    return compile_step(config, request["topology"])


def answer_request(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read a request from standard input and print `answer(request)` as the last line.

    The message of a ValueError is returned as {"error": message}.
    """
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        reply = answer(json.loads(sys.stdin.readline()))
    except ValueError as error:
        reply = {"error": str(error)}
    print(f"\n{json.dumps(reply)}", flush=True)


def _exit_with_parent(parent: int) -> None:
    """Exit as soon as the parent process has ended; compiling takes minutes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    answer_request(answer)
