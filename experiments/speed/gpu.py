# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.gpu`: memory traffic as estimated by XLA's GPU compiler.

Compiles training steps and inference for an H100 in bfloat16, each in about a minute on two
idle cores. Needs no GPU, only the compiler: pip install "jax[cuda12]" of the installed
jaxlib's version. The table has the bytes that kernels read and write, counting each operand
and result once, by kind of kernel, and the size of temporaries. Choices that XLA makes by
timing kernels on the device are left at their defaults. Ctrl-C prints the results so far.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax import Array
from jax.experimental import topologies

from experiments.speed.case import CLASSES
from inception_jax.config import AugmentConfig, ParallelConfig, RunConfig
from inception_jax.models.network import Network
from inception_jax.models.zoo import get_spec
from inception_jax.planning.aot_worker import lower_step
from inception_jax.planning.hlo import bytes_by_operation
from inception_jax.runtime.collectives import AxisName, mean_over
from inception_jax.runtime.parallel import ShardMapStep
from inception_jax.runtime.stopping import run_command
from inception_jax.text import table
from inception_jax.training.from_config import network_for, preprocess_for
from inception_jax.training.step import Batch

H100 = Path(__file__).with_name("h100.txtpb")  # a description of the chip, from XLA
# Without a device there is no autotuning, which Triton's matrix multiplications need. The
# package never uses those: see `compiler_options` in `runtime/devices.py`.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
# Prefixes of the names of operations and library functions.
KINDS = {"__cudnn": "convolutions", "__cublas": "matmuls", "copy": "copies"}
OTHER = "other"
COLUMNS = (*KINDS.values(), OTHER)

Task = Literal["training", "inference"]
IMPLEMENTATIONS = ("ours", "plain")


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    tasks: tuple[Task, ...] = ("training", "inference")
    # Inference of "ours" has its batch norms folded.
    implementations: Annotated[
        tuple[Literal[IMPLEMENTATIONS], ...], tyro.conf.arg(aliases=("--sides",))
    ] = IMPLEMENTATIONS
    # Images per batch.
    images: int = 256
    # Height and width of the images in pixels; default: the network's own.
    image_size: int | None = None


def lowered(
    network: str, task: Task, implementation: str, options: Options, device: jax.Device
) -> jax.stages.Lowered:
    """Return the program of an implementation for one device, which may be absent."""
    config = RunConfig(
        network,
        batch_size=options.images,
        image_size=options.image_size,
        dtype="bfloat16",
        parallel=ParallelConfig("shard_map"),
        augment=AugmentConfig(color=False),  # as in tpu_worker.py
        fast=implementation == "ours",
    )
    module = network_for(config, CLASSES, 1)
    if task == "training":
        return lower_step(config, module, [device])
    module = module.clone(folded=implementation == "ours")
    shape = (options.images, *preprocess_for(config).image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    apply = partial(_inference, module)
    step = ShardMapStep(apply, config.parallel, [device], donate=False)
    return step.lower(variables, {"image": images}, None)


def _inference(
    network: Network, variables: Any, batch: Batch, numbers: None, *, axis_name: AxisName
) -> Array:
    """Return the logits; has the signature of a step."""
    logits, _ = network.apply(variables, batch["image"])
    return mean_over(logits, axis_name)  # over one device: no operation


def row(bytes_by_kernel: dict[str, int], temporaries: int, images: int) -> list[str]:
    """Return cells: MB per image, in total and by `COLUMNS`, and GB of temporaries."""
    totals = dict.fromkeys(COLUMNS, 0)
    for name, size in bytes_by_kernel.items():
        kinds = [kind for prefix, kind in KINDS.items() if name.startswith(prefix)]
        totals[kinds[0] if kinds else OTHER] += size
    sizes = [sum(totals.values()), *totals.values()]
    return [*(f"{size / images / 1e6:.1f}" for size in sizes), f"{temporaries / 1e9:.2f}"]


def run(options: Options) -> None:
    """Compile all programs and print the table.

    Raises ValueError for bad options and ModuleNotFoundError without the compiler.
    """
    for network in options.networks:
        get_spec(network)
    if options.images < 1:
        raise ValueError(f"--images must be at least 1, got {options.images}.")
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise ModuleNotFoundError(
            "XLA's compiler for GPUs, jax_cuda12_plugin, is missing: "
            'pip install "jax[cuda12]"'
        )
    jax.config.update("jax_platforms", "cpu")  # do not look for a GPU
    # A program for an absent device cannot be loaded from the compilation cache.
    jax.config.update("jax_enable_compilation_cache", False)
    topology = topologies.get_topology_desc(
        "elsewhere", "cuda", target_config=H100.read_text(), topology="1x1x1"
    )
    device = topology.devices[0]
    programs = list(product(options.networks, options.tasks, options.implementations))
    rows = []
    try:
        for number, (network, task, implementation) in enumerate(programs, 1):
            print(
                f"[{number}/{len(programs)}] Compiling {task} of {network}, "
                f"{implementation}.",
                file=sys.stderr,
            )
            program = lowered(network, task, implementation, options, device)
            compiled = program.compile(compiler_options=OPTIONS)
            temporaries = compiled.memory_analysis().temp_size_in_bytes
            cells = row(bytes_by_operation(compiled.as_text()), temporaries, options.images)
            rows.append([network, task, implementation, *cells])
    finally:
        header = "network", "task", "implementation", "MB/image", *COLUMNS
        header += ("temporaries, GB",)
        if rows:
            print(table(header, rows, right=range(3, len(header))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 done, 2 bad input, 130 interrupted."""
    prog = "python -m experiments.speed.gpu"
    return run_command(
        "experiments.speed.gpu",
        lambda: run(tyro.cli(Options, prog=prog, description=__doc__, args=arguments)),
        if_interrupted="the results so far are above",
        extra="bench",
    )


if __name__ == "__main__":
    raise SystemExit(main())
