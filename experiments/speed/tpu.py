# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed.tpu`: training steps in the figures of the TPU's compiler.

Ours, the plain formulation (each convolution `lax.conv_general_dilated`) and Keras on the
JAX backend, one compilation after another: 5 to 15 minutes of two free cores each and up
to 8 GiB. Needs no TPU, but libtpu: pip install "inception_jax[plan]", and for Keras
"inception_jax[bench]". Each result is a line of `out`; what has one there is not compiled
again. Times are the least that the chip's figures allow, and the compiler's expectation.

Ours and plain are steps of a slice with their all-reduce; Keras's is that of one chip.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro

from experiments.speed.tpu_worker import KERAS, Request
from inception_jax.aot import ENVIRONMENT
from inception_jax.metrics import read_json_lines
from inception_jax.models.networks import get_spec
from inception_jax.roofline import slice_named
from inception_jax.table import table

SIDES = ("ours", "plain", "keras")


@dataclass(frozen=True)
class Options:
    """What the command line can say."""

    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    sides: tuple[str, ...] = SIDES
    images: int = 128  # of a step, on one chip
    topology: str = "v5e:2x2"
    image_size: int | None = None  # pixels; default: the network's own
    out: Path = Path("tpu.jsonl")


def requests(options: Options) -> list[Request]:
    """What is to be compiled. Raises ValueError, naming it, for what there is not."""
    slice_named(options.topology)
    for network in options.networks:
        get_spec(network)
    if unknown := set(options.sides) - set(SIDES):
        raise ValueError(
            f"no side {min(unknown)!r}; choose among {', '.join(SIDES)} for --sides."
        )
    if options.images < 1:
        raise ValueError(f"--images must be at least 1, got {options.images}.")
    return [
        Request(side, network, options.images, options.topology, options.image_size)
        for network in options.networks
        for side in options.sides
        if side != "keras" or network in KERAS
    ]


def compiled(request: Request) -> dict[str, Any]:
    """The worker's answer. Raises RuntimeError with what it said where it has none."""
    worker = subprocess.run(
        [sys.executable, "-m", "experiments.speed.tpu_worker"],
        input=json.dumps(asdict(request)) + "\n",
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    if worker.returncode:
        raise RuntimeError(
            f"{request.side} of {request.network} ended with {worker.returncode}:\n"
            f"{worker.stderr}"
        )
    return json.loads(worker.stdout.splitlines()[-1])


def row(request: Request, answer: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table, per image and per chip."""
    if "compiled" not in answer:
        said = answer.get("error") or f"too large: {answer['refused']['needed'] / 1e9:.1f}"
        return (request.network, request.side, said, "", "", "", "")
    found, chip = answer["compiled"], slice_named(request.topology).chip
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


def main(args: Sequence[str] | None = None) -> None:
    """Compile what `out` does not have, and print all as a table."""
    options = tyro.cli(Options, description=__doc__, args=args)
    try:
        wanted = requests(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    versions = {name: version(name) for name in ("jax", "jaxlib", "libtpu", "flax")}
    known = read_json_lines(options.out) if options.out.exists() else []
    lines = []
    for request in wanted:
        key = {"request": asdict(request), "versions": versions}
        answer = next((x["answer"] for x in known if key == {k: x[k] for k in key}), None)
        if answer is None:
            print(f"Compiling {request.side} of {request.network}.", file=sys.stderr)
            answer = compiled(request)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(key | {"answer": answer}) + "\n")
        lines.append(row(request, answer))
    header = (
        *("network", "side", "MB/image", "GFLOP/image", "temporaries, GB"),
        *("images/s, roofline", "images/s, expected"),
    )
    print(table(header, lines, right=range(2, len(header))))


if __name__ == "__main__":
    main()
