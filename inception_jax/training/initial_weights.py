# SPDX-License-Identifier: Apache-2.0
"""A run that begins from other weights than random ones: `RunConfig.first_weights`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.storage.run_folder import flatten_settings, setting_differences
from inception_jax.text import one_line
from inception_jax.training.optimizer import CLASSIFIERS
from inception_jax.training.step import TrainState
from inception_jax.weights import model_folder
from inception_jax.weights.model import card_of_run, find_model, load
from inception_jax.weights.model_folder import Card


def source_card(path_or_name: str) -> Card:
    """The card of what `inception_jax.load` takes; no weights are read.

    Raises ValueError where there is none, CheckpointError where it is damaged.
    """
    folder = find_model(path_or_name)
    if model_folder.is_model_folder(folder):
        return model_folder.read_card(folder)
    return card_of_run(folder, "ema", step=0)


def preprocessing_settings(spec: PreprocessSpec) -> dict[str, Any]:
    """The settings of a `RunConfig` that make it see images as `spec` does.

    Raises ValueError where these are not square, which those of a run are.
    """
    height, width, _ = spec.image_shape
    if height != width:
        raise ValueError(
            f"the weights are for images of {height}x{width}; a run needs square ones."
        )
    return {
        "image_size": height,
        "crop_fraction": spec.crop_fraction,
        "aspect": spec.aspect,
        "resize": spec.resize,
        "pixel_range": (spec.low, spec.high),
    }


def check_first_weights(config: RunConfig, class_names: Sequence[str]) -> None:
    """Raise ValueError where the run cannot begin from its `first_weights`.

    Raises CheckpointError where their card is damaged.
    """
    card = source_card(str(config.first_weights))
    names = ("network", "bn_scale", "ablation")
    sides = [flatten_settings({n: asdict(x)[n] for n in names}) for x in (card, config)]
    if different := setting_differences(*sides):
        raise ValueError(
            f"first_weights {one_line(config.first_weights)} are of another network "
            f"({'; '.join(different)})."
        )
    if config.head == "kept" and card.class_names != tuple(class_names):
        raise ValueError(
            f"head kept needs the classes of {one_line(config.first_weights)}, "
            f"{_some(card.class_names)}, and {one_line(config.data)} has "
            f"{_some(class_names)}; make a new one (--head new)."
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({shown})"


def load_first_weights(state: TrainState, config: RunConfig) -> TrainState:
    """`state` with the weights that `config` begins from, averages included, on the host.

    Classifiers stay as they are in `state`, but for the main one with head="kept".

    Raises what `load` raises.
    """
    _, variables = load(str(config.first_weights))
    new = CLASSIFIERS if config.head == "new" else CLASSIFIERS[1:]
    params, batch_stats = (
        {name: x for name, x in variables[group].items() if name not in new}
        for group in ("params", "batch_stats")
    )
    state = jax.device_get(state)
    params, batch_stats = state.params | params, state.batch_stats | batch_stats
    # Copies: two names for one buffer cannot both be donated to the step.
    now, averages = (
        jax.tree.map(lambda x: np.array(x, copy=True), (params, batch_stats))
        for _ in range(2)
    )
    return state._replace(
        params=now[0],
        batch_stats=now[1],
        ema_params=averages[0],
        ema_batch_stats=averages[1],
    )
