# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.tpu`: training steps in the figures of the TPU's compiler.

Ours, ours with --remat, the plain formulation (each convolution
`lax.conv_general_dilated`) and Keras on the JAX backend, one compilation after another: 5
to 15 minutes of two free cores each and up to 8 GiB. Needs no TPU, but libtpu: pip install
"inception_jax[plan]", and for Keras "inception_jax[bench]". Each result is a line of `out`;
what has one there is not compiled again. Times are the least that the chip's figures allow,
and the compiler's expectation.

Keras's is the step of one chip, the others those of a slice with their all-reduce.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.command import run_command
from experiments.speed.implementations import KERAS
from experiments.speed.tpu_worker import Request
from inception_jax.models.network import get_spec
from inception_jax.planning import aot, worker
from inception_jax.planning.roofline import get_slice
from inception_jax.storage.jsonl import append_json_line, read_json_lines
from inception_jax.text import table

IMPLEMENTATIONS = ("ours", "remat", "plain", "keras")


@dataclass(frozen=True)
class Options:
    """What the command line can say."""

    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    implementations: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--sides",))] = (
        IMPLEMENTATIONS
    )
    images: int = 128  # of a step, on one chip
    topology: str = "v5e:2x2"
    image_size: int | None = None  # pixels; default: the network's own
    out: Path = Path("tpu.jsonl")


def requests(options: Options) -> list[Request]:
    """What is to be compiled. Raises ValueError, naming it, for what there is not."""
    get_slice(options.topology)
    for network in options.networks:
        get_spec(network)
    if unknown := set(options.implementations) - set(IMPLEMENTATIONS):
        raise ValueError(
            f"no side {min(unknown)!r}; choose among {', '.join(IMPLEMENTATIONS)}."
        )
    if options.images < 1:
        raise ValueError(f"--images must be at least 1, got {options.images}.")
    return [
        Request(side, network, options.images, options.topology, options.image_size)
        for network in options.networks
        for side in options.implementations
        if side != "keras" or network in KERAS
    ]


def row(request: Request, answer: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table, per image and per chip."""
    if "compiled" not in answer:
        said = f"too large: {answer['refused']['needed'] / 1e9:.1f}"
        return (request.network, request.side, said, "", "", "", "")
    found, chip = answer["compiled"], get_slice(request.topology).chip
    moved, images = found["movement"], request.images
    seconds = max(found["flops"] / chip.peak, moved["hbm_bytes"] / chip.hbm_rate)
    expected = chip.clock and moved["cycles"] and images * chip.clock / moved["cycles"]
    return (
        request.network,
        request.side,
        f"{moved['hbm_bytes'] / images / 1e6:.0f}",
        f"{found['flops'] / images / 1e9:.1f}",
        f"{found['memory']['temporary'] / 1e9:.2f}",
        f"{images / seconds:,.0f}",
        f"{expected:,.0f}" if expected else "",
    )


def run(options: Options) -> None:
    """Compile what is not known yet, and print the table."""
    wanted = requests(options)
    aot.check_compiler()
    names = (
        "jax",
        "jaxlib",
        "libtpu",
        "flax",
        *(["keras"] * ("keras" in options.implementations)),
    )
    decisive = {
        "versions": {name: version(name) for name in names},
        "source": aot.source_digest(),
    }
    known = read_json_lines(options.out) if options.out.exists() else []
    lines = []
    for number, request in enumerate(wanted, 1):
        key = {"request": asdict(request)} | decisive
        answer = next(
            (x["answer"] for x in known if key == {k: x.get(k) for k in key}), None
        )
        if answer is None:
            print(
                f"[{number}/{len(wanted)}] Compiling {request.side} of {request.network}.",
                file=sys.stderr,
            )
            answer = worker.run_worker("experiments.speed.tpu_worker", asdict(request))
            append_json_line(options.out, key | {"answer": answer})
        lines.append(row(request, answer))
    header = (
        *("network", "side", "MB/image", "GFLOP/image", "temporaries, GB"),
        *("images/s, roofline", "images/s, expected"),
    )
    print(table(header, lines, right=range(2, len(header))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, 130 interrupted."""

    def do() -> None:
        prog = "python -m experiments.speed.tpu"
        run(tyro.cli(Options, prog=prog, description=__doc__, args=arguments))

    return run_command(
        "experiments.speed.tpu",
        do,
        if_interrupted="what was compiled is kept",
        extra="bench",
    )


if __name__ == "__main__":
    raise SystemExit(main())
