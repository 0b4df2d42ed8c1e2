# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax`, also `python -m inception_jax`."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro

from inception_jax.cli.checkpoints import (
    diff_checkpoints,
    export_checkpoint,
    list_checkpoints,
    verify_checkpoints,
)
from inception_jax.cli.data import bench_data, check_data
from inception_jax.cli.features import write_image_features
from inception_jax.cli.networks import show_networks
from inception_jax.cli.plan import plan_training
from inception_jax.cli.predict import predict_images
from inception_jax.cli.weights import export_weights, import_weights
from inception_jax.storage.errors import CheckpointError
from inception_jax.text import printable

Command = Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default `sys.argv`.

    Errors are printed as one sentence. The exit status is 2 for invalid input, and 74 if a
    checkpoint is damaged or a file cannot be written.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "networks": show_networks,
                "data": _group(
                    "Check a data set, or measure how fast its images are read.",
                    {"check": check_data, "bench": bench_data},
                ),
                "ckpt": _group(
                    "List, verify, compare or export the checkpoints of a run.",
                    {
                        "ls": list_checkpoints,
                        "verify": verify_checkpoints,
                        "diff": diff_checkpoints,
                        "export": export_checkpoint,
                    },
                ),
                "plan": plan_training,
                "predict": predict_images,
                "features": write_image_features,
                "weights": _group(
                    "Import weights of other libraries, or export a network's weights.",
                    {"import": import_weights, "export": export_weights},
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
    except CheckpointError as error:
        print(f"inception-jax: {printable(error)}", file=sys.stderr)
        raise SystemExit(74) from None
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"inception-jax: {printable(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def print_versions() -> None:
    """Print the versions of inception_jax, jax, flax and optax."""
    from importlib.metadata import version

    for package in ("inception_jax", "jax", "flax", "optax"):
        print(f"{package} {version(package)}")


def _group(description: str, commands: dict[str, Command]) -> Command:
    """Return a command that has `commands` as its sub-commands."""
    subcommands = tuple(
        Annotated[None, tyro.conf.subcommand(name, constructor=command)]
        for name, command in commands.items()
    )

    def group(command: None) -> None: ...

    group.__doc__ = description
    # tyro runs the sub-command while it constructs the argument of this type.
    group.__annotations__["command"] = Annotated[
        Union[subcommands],  # noqa: UP007
        tyro.conf.arg(name=""),
    ]
    return group
