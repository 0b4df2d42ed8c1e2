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

Run = Annotated[
    Path, Positional, arg(metavar="RUN", help="Folder of the run, its --workdir.")
]
Images = Annotated[
    tuple[str, ...],
    Positional,
    arg(
        metavar="IMAGE...",
        help="Image files, folders (searched with all their subfolders) or quoted patterns "
        "such as 'photos/**/*.jpg'.",
        help_behavior_hint="(required)",
    ),
]
ModelName = Annotated[
    str | None,
    arg(
        metavar="MODEL",
        help="Model folder, run folder, or name of a model in $INCEPTION_JAX_MODELS "
        "(~/.local/share/inception_jax/models if unset).",
        help_behavior_hint="(default: the only model there)",
    ),
]
Weights = Annotated[
    Literal["ema", "raw"],
    arg(
        help="Weights of a run: their exponential moving average (ema) or the weights as "
        "the optimizer left them (raw)."
    ),
]
Step = Annotated[
    int | None,
    arg(
        metavar="INT",
        help="Step of the checkpoint of a run.",
        help_behavior_hint="(default: the newest undamaged checkpoint)",
    ),
]
ImageBatchSize = Annotated[int, arg(help="Images per batch.")]
DataDir = Annotated[
    str | None,
    arg(
        metavar="DIR",
        help="Folder of TFDS data sets.",
        help_behavior_hint="(default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    ),
]
ImageSize = Annotated[
    int | None,
    arg(
        metavar="INT",
        help="Height and width of the input images, in pixels.",
        help_behavior_hint="(default: the network's own)",
    ),
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
