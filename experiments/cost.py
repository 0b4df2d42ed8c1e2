# SPDX-License-Identifier: Apache-2.0
"""Estimate the cost of the recipes: `python -m experiments.cost [RECIPE ...]`.

Compiles the training step of each ImageNet recipe for a TPU slice, as `inception-jax plan`
does, which takes minutes. The estimates are written to experiments/networks/plans.json and
to the "Cost" entries of the recipes' docstrings.
"""

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro

from experiments.networks import RECIPES
from inception_jax.config import RunConfig
from inception_jax.data.imagenet import NUM_TRAIN_IMAGES
from inception_jax.planning.plan import Plan, make_plan
from inception_jax.planning.roofline import GIB, get_slice
from inception_jax.runtime.stopping import run_command

FOLDER = Path(__file__).parent / "networks"
ON_IMAGENET = tuple(
    name for name, recipe in RECIPES.items() if recipe.CONFIG.data == "imagenet2012"
)


@dataclass(frozen=True)
class Cost:
    """The estimates that are recorded for a recipe: one training step on one chip."""

    topology: str
    batch_size: int  # images in a step, over all chips
    needed: int  # bytes of HBM
    largest: int | None  # images per chip in the largest batch; None if not searched
    flops: float
    hbm_bytes: int
    all_reduce_bytes: int
    roofline_seconds: float
    expected_seconds: float | None  # the compiler's estimate plus the all-reduce
    compiler: str

    @property
    def chips(self) -> int:
        return get_slice(self.topology).chips

    def hours(self, images: float, seconds: float) -> float:
        """Return the hours for a number of training images at `seconds` per step."""
        return images / self.batch_size * seconds / 3600


def cost_from_plan(plan: Plan) -> Cost:
    """Return the estimates of a plan that are recorded."""
    movement = plan.program.movement
    all_reduce = movement.bytes["all-reduce"]
    seconds = plan.expected_seconds
    if seconds is not None:
        seconds += plan.slice.all_reduce_seconds(all_reduce)
    return Cost(
        topology=plan.slice.name,
        batch_size=plan.config.batch_size,
        needed=plan.program.needed,
        largest=plan.largest.images if plan.largest else None,
        flops=plan.program.flops,
        hbm_bytes=movement.hbm_bytes,
        all_reduce_bytes=all_reduce,
        roofline_seconds=plan.step_seconds,
        expected_seconds=seconds,
        compiler=f"jax {version('jax')}, libtpu {version('libtpu')}",
    )


def read_costs(folder: Path = FOLDER) -> dict[str, Cost]:
    """Read plans.json; return the costs keyed by recipe."""
    plans = json.loads((folder / "plans.json").read_text())
    return {name: Cost(**figures) for name, figures in plans.items()}


def record_cost(name: str, cost: Cost, folder: Path = FOLDER) -> None:
    """Write a cost to plans.json and to the docstring of its recipe."""
    path = folder / "plans.json"
    costs = read_costs(folder) if path.exists() else {}
    costs[name] = cost
    plans = {key: asdict(value) for key, value in sorted(costs.items())}
    path.write_text(json.dumps(plans, indent=1) + "\n")
    recipe = folder / f"{name}.py"
    text = replace_cost_entry(recipe.read_text(), RECIPES[name].CONFIG, cost)
    recipe.write_text(text)


def replace_cost_entry(text: str, config: RunConfig, cost: Cost) -> str:
    """Return the source of a recipe with a new "Cost" entry in its docstring."""
    entry = re.compile(r"^Cost {9}\S.*\n(?: {13}\S.*\n)*", re.MULTILINE)
    replaced, count = entry.subn(lambda _: cost_entry(config, cost), text)
    if count != 1:
        raise ValueError(
            f"{config.network}: its docstring has {count} Cost entries, expected 1."
        )
    return replaced


def cost_entry(config: RunConfig, cost: Cost) -> str:
    """Return the "Cost" entry of a recipe's docstring."""
    hbm = get_slice(cost.topology).chip.hbm
    per_chip = cost.batch_size // cost.chips
    images = config.epochs * NUM_TRAIN_IMAGES
    operations = cost.flops / per_chip * images
    most = "" if cost.largest is None else f" (up to {cost.largest} would fit)"
    hours = f"at least {cost.hours(images, cost.roofline_seconds):.1f} hours (roofline)"
    if cost.expected_seconds:
        expected = cost.hours(images, cost.expected_seconds)
        hours += f", about {expected:.0f} by the compiler's estimate"
    text = (
        f"estimated by experiments.cost, not measured: {operations:.1e} operations; on TPU "
        f"{cost.topology} {config.epochs:g} epochs take {hours}. "
        f"Memory: {cost.needed / GIB:.1f} of {hbm / GIB:.0f} GiB per chip with {per_chip} "
        f"images per chip{most}"
    )
    indents = {"initial_indent": f"{'Cost':<13}", "subsequent_indent": " " * 13}
    return textwrap.fill(text, 92, break_on_hyphens=False, **indents) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def run(
        recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ON_IMAGENET,
        /,
        topology: str = "v5e:4x4",
        largest: bool = True,
        fresh: bool = False,
    ) -> None:
        """Plan the recipes and record their costs.

        Args:
            recipes: Recipes on ImageNet; by default all of them.
            topology: TPU type and topology of the slice, such as v5e:4x4.
            largest: Also search for the largest batch that fits on a chip.
            fresh: Ignore cached results and recompile.
        """
        if unknown := set(recipes) - set(ON_IMAGENET):
            raise ValueError(
                f"expected {', '.join(ON_IMAGENET)}, got {', '.join(sorted(unknown))}."
            )
        log = partial(print, file=sys.stderr, flush=True)
        for name in recipes:
            config = RECIPES[name].CONFIG
            plan = make_plan(config, topology, largest=largest, fresh=fresh, log=log)
            record_cost(name, cost_from_plan(plan), FOLDER)
            print(cost_entry(config, read_costs(FOLDER)[name]), end="", flush=True)

    def action() -> None:
        prog = "python -m experiments.cost"
        tyro.cli(run, prog=prog, description=__doc__, args=arguments)

    return run_command(
        "experiments.cost", action, if_interrupted="completed compilations are kept"
    )


if __name__ == "__main__":
    raise SystemExit(main())
