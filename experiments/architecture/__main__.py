# SPDX-License-Identifier: Apache-2.0
"""Draw the networks as PNG files: `python -m experiments.architecture --out DIR`.

notebooks/architecture.ipynb shows and explains the figures.
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
from inception_jax.runtime.stopping import run_command
from inception_jax.text import printable

FIGURES: dict[str, Callable[[], Figure]] = {
    "networks": draw_networks,
    "two_v2": partial(draw_comparison, "inception_resnet_v2", "inception_resnet_v2_paper"),
    "blocks": draw_blocks,
    "cost": draw_cost,
    "fields": draw_receptive_fields,
}


@dataclass(frozen=True)
class Options:
    """Draw the networks, their blocks, cost and receptive fields as PNG files."""

    # Folder for the figures.
    out: Path = Path("runs/architecture")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        prog = "python -m experiments.architecture"
        options = tyro.cli(Options, prog=prog, args=arguments)
        options.out.mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES.items():
            path = options.out / f"{name}.png"
            draw().savefig(path, dpi=150)
            print(f"Wrote {printable(path)}")

    return run_command(
        "experiments.architecture", action, if_interrupted="finished figures are kept"
    )


if __name__ == "__main__":
    raise SystemExit(main())
