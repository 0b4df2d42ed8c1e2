# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax`, also `python -m inception_jax`."""

import sys
from collections.abc import Callable, Sequence
from functools import reduce
from importlib.metadata import version
from operator import or_
from typing import Annotated, Any

import tyro

from inception_jax.cli import checkpoints, data, features, networks, plan, predict, weights
from inception_jax.storage.files import CheckpointError
from inception_jax.text import printable

Command = Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default `sys.argv`.

    Errors are printed as a message, without a traceback. The exit status is 2 for invalid
    input, and 74 if a checkpoint is damaged or a file cannot be written.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "networks": networks.show_networks,
                "data": _group(
                    "Check a data set, or measure how fast its images are read.",
                    {"check": data.check_data, "bench": data.bench_data},
                ),
                "ckpt": _group(
                    "List, verify, compare or export the checkpoints of a run.",
                    {
                        "ls": checkpoints.list_checkpoints,
                        "verify": checkpoints.verify_checkpoints,
                        "diff": checkpoints.diff_checkpoints,
                        "export": checkpoints.export_checkpoint,
                    },
                ),
                "plan": plan.plan_training,
                "predict": predict.predict_images,
                "features": features.write_image_features,
                "weights": _group(
                    "Import weights of other libraries, or export a network's weights.",
                    {"import": weights.import_weights, "export": weights.export_weights},
                ),
                "version": print_versions,
            },
            prog="inception-jax",
            description=(
                "Inception-v4 and Inception-ResNet in JAX: show the networks of the paper, "
                "check data and checkpoints, plan a training run, classify images and "
                "convert weights. Experiments are started with python -m experiments.NAME."
            ),
            args=arguments,
        )
    except (CheckpointError, ValueError, TypeError, ImportError, OSError) as error:
        print(f"inception-jax: {printable(error)}", file=sys.stderr)
        raise SystemExit(74 if isinstance(error, CheckpointError) else 2) from None


def print_versions() -> None:
    """Print the versions of inception_jax, jax, flax and optax."""
    for package in ("inception_jax", "jax", "flax", "optax"):
        print(f"{package} {version(package)}")


def _group(description: str, commands: dict[str, Command]) -> Command:
    """Return a command that has `commands` as its sub-commands."""
    subcommands = [
        Annotated[None, tyro.conf.subcommand(name, constructor=command)]
        for name, command in commands.items()
    ]

    def group(command: None) -> None: ...

    group.__doc__ = description
    # tyro calls the sub-command that is named, as the constructor of this argument.
    union: Any = reduce(or_, subcommands)
    group.__annotations__["command"] = Annotated[union, tyro.conf.arg(name="")]
    return group
