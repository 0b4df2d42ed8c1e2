# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.run RECIPE [options]`: train a network, or go on training it.

The recipes are the files of experiments/networks; their options are the fields of
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


Configs = dict[str, tuple[str, RunConfig]]  # what each is, and its settings, by name


def recipes() -> Configs:
    """The recipes of experiments/networks, each in a folder of its own."""
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
    """The configuration of a command line: one of `configs`, by default the recipes, and
    what is changed of it."""
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
    """Train what the command line says; when the run is complete comes `finish`.

    Exit status: 0 done, 2 bad input, else as in `inception_jax.runtime.stopping`.
    """
    try:
        config = parse(arguments)
        # Imported after the command line is read: --help and mistakes answer at once.
        from inception_jax.training.fit import HostLostError, fit
        from inception_jax.training.loop import NonFiniteError
    except OSError as error:
        return _fail(error, stopping.DISK)
    except (ValueError, TypeError) as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        return _fail(f'{error.name} is missing: pip install "inception_jax[train]"')
    try:
        compile_cache.enable()
        done = fit(config, STARTED)
        if done:
            finish(config)
    except NonFiniteError as error:
        return _fail(error, stopping.NOT_FINITE)
    except HostLostError as error:
        return _fail(error, stopping.HOST_LOST)
    except OSError as error:
        return _fail(error, stopping.DISK)
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\nInterrupted; the last checkpoint stands.", file=sys.stderr)
        return stopping.INTERRUPTED
    if not done:
        print("Stopped and saved; the same command goes on from there.", file=sys.stderr)
        return stopping.RUN_AGAIN
    return 0


def _fail(error: object, status: int = 2) -> int:
    print(f"experiments.run: {printable(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    hosts.leave(main())
