# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.architecture --out DIR`: the networks as pictures, for a lecture.

Networks side by side, the two v2 compared, blocks, cost, receptive fields, as PNG. The
notebook notebooks/architecture.ipynb shows them with words, and what a photo becomes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.architecture.blocks import draw_blocks
from experiments.architecture.charts import draw_cost, draw_receptive_fields
from experiments.architecture.drawings import draw_comparison, draw_networks
from experiments.command import run_command
from inception_jax.text import printable

PICTURES: dict[str, Callable[[], Figure]] = {
    "networks": draw_networks,
    "two_v2": partial(draw_comparison, "inception_resnet_v2", "inception_resnet_v2_paper"),
    "blocks": draw_blocks,
    "cost": draw_cost,
    "fields": draw_receptive_fields,
}


@dataclass(frozen=True)
class Options:
    """Draw the networks."""

    # Folder for the pictures.
    out: Path = Path("runs/architecture")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input."""

    def do() -> None:
        prog = "python -m experiments.architecture"
        options = tyro.cli(Options, prog=prog, args=arguments)
        options.out.mkdir(parents=True, exist_ok=True)
        for name, draw in PICTURES.items():
            path = options.out / f"{name}.png"
            draw().savefig(path, dpi=150)
            print(f"Wrote {printable(path)}")

    return run_command(
        "experiments.architecture", do, if_interrupted="finished pictures are kept"
    )


if __name__ == "__main__":
    raise SystemExit(main())
