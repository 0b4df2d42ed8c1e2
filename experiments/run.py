# SPDX-License-Identifier: Apache-2.0
"""Train a network, or resume its run: `python -m experiments.run RECIPE [options]`.

The recipes are the files of experiments/networks. To list the options, run `python -m
experiments.run RECIPE --help` or see inception_jax/training/OPTIONS.md.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from experiments.networks import RECIPES
from inception_jax.config import RunConfig
from inception_jax.runtime import compile_cache, hosts
from inception_jax.runtime.stopping import ExitStatus, run_command

STARTED = time.perf_counter()

Configs = dict[str, tuple[str, RunConfig]]  # name to description and settings


def recipes() -> Configs:
    """Return the recipes of experiments/networks, each with its own run folder."""
    return {
        name: (recipe.TITLE, replace(recipe.CONFIG, workdir=Path("runs") / name))
        for name, recipe in RECIPES.items()
    }


def parse(
    arguments: Sequence[str] | None = None,
    configs: Configs | None = None,
    prog: str = "python -m experiments.run",
    description: str | None = __doc__,
) -> RunConfig:
    """Return the configuration that a command line selects and changes.

    `configs` are the configurations to select from, by default the recipes.
    """
    return tyro.extras.overridable_config_cli(
        recipes() if configs is None else configs,
        prog=prog,
        description=description,
        args=arguments,
    )


def main(
    arguments: Sequence[str] | None = None,
    parse: Callable[..., RunConfig] = parse,
    finish: Callable[[RunConfig], None] = lambda config: None,
    *,
    name: str = "experiments.run",
) -> int:
    """Train as the command line says and call `finish` when the run is complete.

    Error messages begin with `name`, the name of the command.

    Returns an exit status, see `inception_jax.runtime.stopping.ExitStatus`.
    """

    def action() -> ExitStatus:
        config = parse(arguments)
        # Imported after parsing, so that --help and errors in options appear at once.
        from inception_jax.training.fit import fit

        compile_cache.enable()
        if not fit(config, STARTED):
            print("Stopped and saved; repeat the command to resume.", file=sys.stderr)
            return ExitStatus.RUN_AGAIN
        finish(config)
        return ExitStatus.DONE

    return run_command(
        name,
        action,
        if_interrupted="the last checkpoint is kept",
        os_error=ExitStatus.DISK,
    )


if __name__ == "__main__":
    hosts.exit_process(main())
