# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.tpu`: training steps as estimated by the TPU compiler.

Compiles ours, ours with --remat, plain Flax layers and Keras, one after another; each takes
5 to 15 minutes on two idle cores and up to 8 GiB. Needs no TPU, only libtpu: pip install
"inception_jax[plan]", and "inception_jax[bench]" for Keras. Each result becomes a line of
`out` and is not compiled again. Images/s are the roofline of the chip's peak rates and the
compiler's own estimate.

Keras is compiled for one chip, the others for all chips of the topology with an all-reduce.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.speed.implementations import KERAS
from experiments.speed.tpu_worker import Request
from inception_jax.models.zoo import get_spec
from inception_jax.planning import aot
from inception_jax.planning.roofline import get_slice
from inception_jax.runtime.stopping import run_command
from inception_jax.storage.files import append_json_line, read_json_lines
from inception_jax.text import table

IMPLEMENTATIONS = ("ours", "remat", "plain", "keras")


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    implementations: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--sides",))] = (
        IMPLEMENTATIONS
    )
    # Images per step and chip.
    images: int = 128
    topology: str = "v5e:2x2"
    # Height and width of the images in pixels; default: the network's own.
    image_size: int | None = None
    # JSON lines with the results; an existing file is extended.
    out: Path = Path("tpu.jsonl")


def requests(options: Options) -> list[Request]:
    """Return the programs to compile. Raises ValueError for bad options."""
    get_slice(options.topology)
    for network in options.networks:
        get_spec(network)
    if unknown := set(options.implementations) - set(IMPLEMENTATIONS):
        raise ValueError(
            f"no implementation {min(unknown)!r}; choose among "
            f"{', '.join(IMPLEMENTATIONS)}."
        )
    if options.images < 1:
        raise ValueError(f"--images must be at least 1, got {options.images}.")
    return [
        Request(name, network, options.images, options.topology, options.image_size)
        for network in options.networks
        for name in options.implementations
        if name != "keras" or network in KERAS
    ]


def row(request: Request, answer: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a program's table row, per image and per chip."""
    labels = request.network, request.implementation
    if "compiled" not in answer:
        return (
            *labels,
            f"too large: needs {answer['refused']['needed'] / 1e9:.1f} GB",
            *[""] * 4,
        )
    compiled, chip = answer["compiled"], get_slice(request.topology).chip
    movement, images = compiled["movement"], request.images
    compute_seconds = compiled["flops"] / chip.peak
    memory_seconds = movement["hbm_bytes"] / chip.hbm_rate
    estimate = ""
    if chip.clock and movement["cycles"]:
        estimate = f"{images * chip.clock / movement['cycles']:,.0f}"
    return (
        *labels,
        f"{movement['hbm_bytes'] / images / 1e6:.0f}",
        f"{compiled['flops'] / images / 1e9:.1f}",
        f"{compiled['memory']['temporary'] / 1e9:.2f}",
        f"{images / max(compute_seconds, memory_seconds):,.0f}",
        estimate,
    )


def run(options: Options) -> None:
    """Compile the programs that have no result in `options.out`, and print the table."""
    wanted = requests(options)
    aot.check_compiler()
    packages = ["jax", "jaxlib", "libtpu", "flax"]
    if "keras" in options.implementations:
        packages.append("keras")
    source = {
        "versions": {name: version(name) for name in packages},
        "source": aot.source_digest(),
    }
    saved = read_json_lines(options.out) if options.out.exists() else []
    rows = []
    for number, request in enumerate(wanted, 1):
        key = {"request": asdict(request)} | source
        alike = (x["answer"] for x in saved if {k: x.get(k) for k in key} == key)
        if (answer := next(alike, None)) is None:
            print(
                f"[{number}/{len(wanted)}] Compiling {request.implementation} of "
                f"{request.network}.",
                file=sys.stderr,
            )
            answer = aot.run_worker("experiments.speed.tpu_worker", asdict(request))
            append_json_line(options.out, key | {"answer": answer})
        rows.append(row(request, answer))
    header = (
        *("network", "implementation", "MB/image", "GFLOP/image", "temporaries, GB"),
        *("images/s, roofline", "images/s, compiler's estimate"),
    )
    print(table(header, rows, right=range(2, len(header))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 done, 2 bad input, 130 interrupted."""
    prog = "python -m experiments.speed.tpu"
    return run_command(
        "experiments.speed.tpu",
        lambda: run(tyro.cli(Options, prog=prog, description=__doc__, args=arguments)),
        if_interrupted="finished results are kept",
        extra="bench",
    )


if __name__ == "__main__":
    raise SystemExit(main())
