# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.gpu`: what a GPU's compiler makes of ours and of plain.

XLA compiles training steps and inference for an H100, in bfloat16; a minute of two free
cores each. Needs no GPU, but XLA's compiler for them, of the version of the installed
jaxlib: pip install "jax[cuda12]". Printed are the bytes that kernels read and write, each
operand and result once, by who computes, and the temporaries. What XLA chooses by trial on
the device, such as cuDNN's algorithms, is left at its default. Ctrl-C prints what there is.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from experiments.command import run_command
from experiments.speed.case import CLASSES
from experiments.speed.implementations.plain import plainly
from inception_jax.config import AugmentConfig, ParallelConfig, RunConfig
from inception_jax.models.network import Network, get_spec
from inception_jax.planning.aot_worker import lower_step
from inception_jax.planning.hlo import bytes_by_operation
from inception_jax.runtime.parallel import AxisName, DataParallel, gpu_elsewhere, mean_over
from inception_jax.text import table
from inception_jax.training.from_config import network_for, preprocess_for
from inception_jax.training.step import Batch

# XLA's own description of the chip, xla/tools/hlo_opt/gpu_specs/h100_sxm.txtpb.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Nothing is tried out on a device, of which Triton's products would be in need; networks
# are compiled without those anyway: see `parallel.compiler_options`.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
# By the beginning of an operation's or library function's name.
KINDS = {"__cudnn": "convolutions", "__cublas": "products", "copy": "copies"}
COLUMNS = (*KINDS.values(), "the rest")

Task = Literal["training", "inference"]
IMPLEMENTATIONS = ("ours", "plain")


@dataclass(frozen=True)
class Options:
    """What the command line can say."""

    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    tasks: tuple[Task, ...] = ("training", "inference")
    # Ours, in inference with batch norms folded, and each convolution as drawn.
    implementations: Annotated[
        tuple[Literal[IMPLEMENTATIONS], ...], tyro.conf.arg(aliases=("--sides",))
    ] = IMPLEMENTATIONS
    images: int = 256  # of a batch
    image_size: int | None = None  # pixels; default: the network's own


def lowered(
    network: str, task: Task, side: str, options: Options, device: jax.Device
) -> jax.stages.Lowered:
    """The program of a side, for one device that need not be there."""
    config = RunConfig(
        network,
        batch_size=options.images,
        image_size=options.image_size,
        dtype="bfloat16",
        parallel=ParallelConfig("shard_map"),
        augment=AugmentConfig(color=False),  # as in `experiments.speed.tpu`
    )
    module = network_for(config, CLASSES, 1)
    lower = plainly if side == "plain" else lambda function: function
    if task == "training":
        return lower(lower_step)(config, module, [device])
    module = module.clone(folded=side == "ours")
    images = jax.ShapeDtypeStruct(
        (options.images, *preprocess_for(config).image_shape), jnp.float32
    )
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    step = DataParallel(
        partial(_inference, module), config.parallel, [device], donate_state=False
    )
    return lower(step.lower)(variables, {"image": images}, None)


def _inference(
    network: Network, variables: Any, batch: Batch, numbers: None, *, axis_name: AxisName
) -> Array:
    """Logits, as a step."""
    logits, _ = network.apply(variables, batch["image"])
    return mean_over(logits, axis_name)  # of one: nothing is done


def row(found: dict[str, int], temporaries: int, images: int) -> list[str]:
    """Cells of the table: MB per image in all and by `COLUMNS`, and GB of temporaries."""
    sums = dict.fromkeys(COLUMNS, 0)
    for name, moved in found.items():
        kind = next((k for start, k in KINDS.items() if name.startswith(start)), None)
        sums[kind or COLUMNS[-1]] += moved
    by_column = [f"{x / images / 1e6:.1f}" for x in (sum(sums.values()), *sums.values())]
    return [*by_column, f"{temporaries / 1e9:.2f}"]


def run(options: Options) -> None:
    """Compile, and print the table.

    Raises ValueError for what there is not, ModuleNotFoundError without the compiler.
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
    jax.config.update("jax_platforms", "cpu")  # a GPU that is there is not looked for
    # What is compiled for a device that is not there cannot be read from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    device = gpu_elsewhere(H100)
    wanted = [
        (network, task, side)
        for network in options.networks
        for task in options.tasks
        for side in options.implementations
    ]
    lines = []
    try:
        for number, (network, task, side) in enumerate(wanted, 1):
            print(
                f"[{number}/{len(wanted)}] Compiling {task} of {network}, {side}.",
                file=sys.stderr,
            )
            program = lowered(network, task, side, options, device)
            compiled = program.compile(compiler_options=OPTIONS)
            temporaries = compiled.memory_analysis().temp_size_in_bytes
            cells = row(bytes_by_operation(compiled.as_text()), temporaries, options.images)
            lines.append([network, task, side, *cells])
    finally:
        header = "network", "task", "side", "MB/image", *COLUMNS, "temporaries, GB"
        if lines:
            print(table(header, lines, right=range(3, len(header))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, 130 interrupted."""

    def do() -> None:
        prog = "python -m experiments.speed.gpu"
        run(tyro.cli(Options, prog=prog, description=__doc__, args=arguments))

    return run_command(
        "experiments.speed.gpu", do, if_interrupted="above is what was done", extra="bench"
    )


if __name__ == "__main__":
    raise SystemExit(main())
