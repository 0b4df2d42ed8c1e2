# SPDX-License-Identifier: Apache-2.0
"""Train a network, or resume its run: `python -m experiments.run RECIPE [options]`.

The recipes are the files of experiments/networks. Their options are the fields of
`inception_jax.config.RunConfig`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from experiments.networks import RECIPES
from inception_jax.config import RunConfig
from inception_jax.runtime import compile_cache, hosts, stopping
from inception_jax.text import printable

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
) -> int:
    """Train as the command line says and call `finish` when the run is complete.

    The exit status is 0 for success, 2 for bad input, else as in
    `inception_jax.runtime.stopping`.
    """
    try:
        config = parse(arguments)
        # Imported after parsing, so that --help and mistakes are answered at once.
        from inception_jax.training.fit import HostLostError, fit
        from inception_jax.training.loop import NonFiniteError
    except OSError as error:
        return _fail(error, stopping.ExitStatus.DISK)
    except (ValueError, TypeError) as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        return _fail(f'{error.name} is missing: pip install "inception_jax[train]"')
    try:
        compile_cache.enable()
        complete = fit(config, STARTED)
        if complete:
            finish(config)
    except NonFiniteError as error:
        return _fail(error, stopping.ExitStatus.NOT_FINITE)
    except HostLostError as error:
        return _fail(error, stopping.ExitStatus.HOST_LOST)
    except OSError as error:
        return _fail(error, stopping.ExitStatus.DISK)
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\nInterrupted; the last checkpoint is kept.", file=sys.stderr)
        return stopping.ExitStatus.INTERRUPTED
    if not complete:
        print("Stopped and saved; run the same command to continue.", file=sys.stderr)
        return stopping.ExitStatus.RUN_AGAIN
    return 0


def _fail(error: object, status: int = 2) -> int:
    print(f"experiments.run: {printable(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    hosts.exit_process(main())
