# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share, and the model that `--model` names."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from inception_jax.runtime import compile_cache
from inception_jax.text import one_line
from inception_jax.weights.model import Model, load, models_folder
from inception_jax.weights.model_folder import CARD_FILE, Variables


def option(metavar: str, default: str, help: str | None = None) -> object:
    """Return the annotation of an option whose default, None, stands for `default`."""
    return arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {default})")


Run = Annotated[Path, Positional, arg(metavar="RUN", help="Run folder (--workdir).")]
Images = Annotated[
    tuple[str, ...],
    Positional,
    arg(
        metavar="IMAGE...",
        help="Image files, folders (with all their subfolders) or quoted patterns such as "
        "'photos/**/*.jpg'.",
        help_behavior_hint="(required)",
    ),
]
MODEL_HELP = (
    "Model folder, run folder, or name of a model in $INCEPTION_JAX_MODELS "
    "(~/.local/share/inception_jax/models if unset)."
)
ModelName = Annotated[str | None, option("MODEL", "the only model there", MODEL_HELP)]
WEIGHTS_HELP = "Which weights of a run: moving average (ema) or raw parameters (raw)."
Weights = Annotated[Literal["ema", "raw"], arg(help=WEIGHTS_HELP)]
NEWEST = "the newest undamaged one"
Step = Annotated[int | None, option("INT", NEWEST, "Step of a run's checkpoint.")]
BatchSize = Annotated[int, arg(help="Images per batch.")]
ImageSize = Annotated[
    int | None, option("INT", "the network's own", "Height and width of the input images.")
]


def load_model(
    name: str | None, weights: Weights, step: int | None
) -> tuple[str, Model, Variables]:
    """Return name, model and variables of `name`, or of the only model in `models_folder`.

    Enables the persistent compilation cache. Raises what `load` raises, and ValueError if
    `name` is None and the number of models is not one.
    """
    compile_cache.enable()
    if name is None:
        name = _only_model()
        print(f"Using the model {one_line(name)}.", file=sys.stderr)
    return (name, *load(name, weights=weights, step=step))


def _only_model() -> str:
    folder = models_folder()
    names = sorted(path.parent.name for path in folder.glob(f"*/{CARD_FILE}"))
    if len(names) != 1:
        contents = ", ".join(map(one_line, names)) if names else "no model"
        raise ValueError(
            f"--model is missing; it can be omitted only if {folder} holds one model, but "
            f"it holds {contents}."
        )
    return names[0]
