# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.tpu_worker`: compile one training step for a TPU.

Runs in its own process, like `aot_worker`. Reads the fields of `Request` as a line of JSON
and writes an answer of the same kind as `aot_worker`.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed.case import Case
from inception_jax.config import AugmentConfig, ParallelConfig, RunConfig
from inception_jax.models.zoo import get_spec
from inception_jax.planning.aot_worker import answer_request, compile_step
from inception_jax.planning.hlo import read_movement
from inception_jax.planning.roofline import get_slice
from inception_jax.runtime.collectives import mark_varying, mean_over
from inception_jax.runtime.devices import compile_only_tpus
from inception_jax.runtime.parallel import ShardMapStep


@dataclass(frozen=True)
class Request:
    """The program to compile."""

    implementation: str  # one of `tpu.IMPLEMENTATIONS`
    network: str
    images: int  # per chip
    topology: str
    image_size: int | None = None  # None: the network's own


def answer(request: Request) -> dict[str, Any]:
    """Return {"compiled": ...}, per chip, or {"refused": ...}: see `aot`."""
    if request.implementation == "keras":
        return {"compiled": _keras(request)}
    config = RunConfig(
        request.network,
        batch_size=request.images * get_slice(request.topology).chips,
        image_size=request.image_size,
        dtype="bfloat16",
        remat=request.implementation == "remat",
        parallel=ParallelConfig("shard_map"),
        augment=AugmentConfig(color=False),  # Keras's step has no augmentation
        fast=request.implementation != "plain",
    )
    return compile_step(config, request.topology)


def _keras(request: Request) -> dict[str, Any]:
    """Compile Keras's `train_step` for one chip."""
    model = _model(request)
    shape = (request.images, *model.input_shape[1:])
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.float32),
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    }
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.value.dtype), variables)

    def step(state: Any, batch: Any, numbers: None, *, axis_name: Any) -> Any:
        state = mark_varying(state, axis_name)
        _, state = model.train_step(state, (batch["image"], batch["label"]))
        return mean_over(state, axis_name)  # over one device: no operation

    device = compile_only_tpus(request.topology)[:1]
    mapped = ShardMapStep(step, ParallelConfig("shard_map"), device)
    lowered = mapped.lower(state, batch, None)
    start = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return {
        "seconds": time.perf_counter() - start,
        "memory": {"temporary": memory.temp_size_in_bytes},
        "flops": compiled.cost_analysis()["flops"],
        "movement": asdict(read_movement(compiled.as_text())),
    }


def _model(request: Request) -> Any:
    """Return the model that `implementations.keras` trains, in bfloat16."""
    from experiments.speed.implementations.keras import model_for

    size = request.image_size or get_spec(request.network).image_shape[0]
    case = Case(request.network, "training", request.images, size, "bfloat16")
    model = model_for(case)
    # Creates the variables of optimizer and metrics, as `fit` does first.
    example = (jnp.zeros((1, size, size, 3)), jnp.zeros((1,), jnp.int32))
    model._symbolic_build(data_batch=example)
    return model


if __name__ == "__main__":
    answer_request(lambda request: answer(Request(**request)))
