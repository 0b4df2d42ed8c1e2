# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.cost [RECIPE ...]`: plan the recipes and put it on their record.

Compiles the training step of each recipe on ImageNet for a TPU slice, as `inception-jax
plan` does and with the same minutes. What was found goes into experiments/networks:
plans.json, and from it the lines "Cost" of the recipes' docstrings.
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

FOLDER = Path(__file__).parent / "networks"
ON_IMAGENET = tuple(
    name for name, recipe in RECIPES.items() if recipe.CONFIG.data == "imagenet2012"
)


@dataclass(frozen=True)
class Cost:
    """A recipe's plan in the figures that are kept; of a step, and of one chip."""

    topology: str
    batch_size: int  # images of a step, on all chips
    needed: int  # bytes of HBM
    largest: int | None  # images that fit, among powers of two; None: not asked for
    flops: float
    hbm_bytes: int
    all_reduce_bytes: int
    roofline_seconds: float
    expected_seconds: float | None  # by the compiler, with the all-reduce after it
    compiler: str

    @property
    def chips(self) -> int:
        return get_slice(self.topology).chips

    def hours(self, images: float, seconds: float) -> float:
        """For so many training images, at so many seconds a step."""
        return images / self.batch_size * seconds / 3600


def cost_from_plan(found: Plan) -> Cost:
    """Figures of a plan."""
    moved = found.program.movement
    size = moved.bytes["all-reduce"]
    expected = found.expected_seconds
    return Cost(
        topology=found.slice.name,
        batch_size=found.config.batch_size,
        needed=found.program.needed,
        largest=found.largest and found.largest.images,
        flops=found.program.flops,
        hbm_bytes=moved.hbm_bytes,
        all_reduce_bytes=size,
        roofline_seconds=found.step_seconds,
        expected_seconds=expected and expected + found.slice.all_reduce_seconds(size),
        compiler=f"jax {version('jax')}, libtpu {version('libtpu')}",
    )


def read_costs(folder: Path = FOLDER) -> dict[str, Cost]:
    """What plans.json says, by recipe."""
    there = json.loads((folder / "plans.json").read_text())
    return {name: Cost(**figures) for name, figures in there.items()}


def record_cost(name: str, cost: Cost, folder: Path = FOLDER) -> None:
    """Write a plan into plans.json and into the docstring of its recipe."""
    path = folder / "plans.json"
    known = read_costs(folder) if path.exists() else {}
    kept = {key: asdict(value) for key, value in sorted((known | {name: cost}).items())}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    recipe = folder / f"{name}.py"
    recipe.write_text(replace_cost_entry(recipe.read_text(), RECIPES[name].CONFIG, cost))


def replace_cost_entry(text: str, config: RunConfig, cost: Cost) -> str:
    """A recipe's text with the lines of "Cost", up to the next word, made anew."""
    entry = re.compile(r"^Cost {9}\S.*\n(?: {13}\S.*\n)*", re.MULTILINE)
    replaced, count = entry.subn(lambda _: cost_entry(config, cost), text)
    if count != 1:
        raise ValueError(f"{config.network}: {count} entries Cost in its docstring, not 1.")
    return replaced


def cost_entry(config: RunConfig, cost: Cost) -> str:
    """The entry of a docstring."""
    hbm = get_slice(cost.topology).chip.hbm
    per_chip = cost.batch_size // cost.chips
    images = config.epochs * NUM_TRAIN_IMAGES
    most = "" if cost.largest is None else f" (at most {cost.largest} fit)"
    least = cost.hours(images, cost.roofline_seconds)
    words = (
        f"{cost.flops / per_chip * images:.1e} operations. On TPU {cost.topology}, by "
        f"its compiler: {cost.needed / GIB:.1f} of {hbm / GIB:.0f} GiB per chip "
        f"with {per_chip} images each{most}, {config.epochs:g} epochs in {least:.1f} "
        "hours or more by the roofline"
    )
    if cost.expected_seconds:
        words += f", {cost.hours(images, cost.expected_seconds):.0f} as it expects"
    words += f". Not measured (python -m experiments.cost {config.network})."
    margin = {"initial_indent": f"{'Cost':<13}", "subsequent_indent": " " * 13}
    return textwrap.fill(words, 92, break_on_hyphens=False, **margin) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan and record the recipes that are named, by default all on ImageNet."""

    def run(
        recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ON_IMAGENET,
        /,
        topology: str = "v5e:4x4",
        largest: bool = True,
        fresh: bool = False,
    ) -> None:
        if unknown := set(recipes) - set(ON_IMAGENET):
            raise ValueError(
                f"recipes are {', '.join(ON_IMAGENET)}, got {', '.join(sorted(unknown))}."
            )
        log = partial(print, file=sys.stderr, flush=True)
        for name in recipes:
            config = RECIPES[name].CONFIG
            found = make_plan(config, topology, largest=largest, fresh=fresh, log=log)
            record_cost(name, cost_from_plan(found), FOLDER)
            print(cost_entry(config, read_costs(FOLDER)[name]), end="", flush=True)

    try:
        tyro.cli(
            run, prog="python -m experiments.cost", description=__doc__, args=arguments
        )
    except (ValueError, ImportError, OSError) as error:
        print(f"experiments.cost: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; what was compiled before is kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
