# SPDX-License-Identifier: Apache-2.0
"""Initial weights from a model folder or another run: `RunConfig.first_weights`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.storage.run_folder import flatten_settings, setting_differences
from inception_jax.text import first_few, one_line
from inception_jax.training.optimizer import CLASSIFIERS, trainable_params
from inception_jax.training.stale import make_copies
from inception_jax.training.state import TrainState
from inception_jax.weights import model_folder
from inception_jax.weights.model import card_of_run, find_model, load
from inception_jax.weights.model_folder import Card


def source_card(path_or_name: str) -> Card:
    """Return the card of a model that `inception_jax.load` accepts, without its weights.

    Raises ValueError if there is none and CheckpointError if it is damaged.
    """
    folder = find_model(path_or_name)
    if model_folder.is_model_folder(folder):
        return model_folder.read_card(folder)
    return card_of_run(folder, "ema", step=0)


def preprocessing_settings(spec: PreprocessSpec) -> dict[str, Any]:
    """Return the fields of `RunConfig` that give the preprocessing `spec`.

    Raises ValueError if the images are not square.
    """
    height, width, _ = spec.image_shape
    if height != width:
        raise ValueError(
            f"the weights are for images of {height}x{width}; a run needs square images."
        )
    return {
        "image_size": height,
        "crop_fraction": spec.crop_fraction,
        "aspect": spec.aspect,
        "resize": spec.resize,
        "pixel_range": (spec.low, spec.high),
    }


def check_first_weights(config: RunConfig, class_names: Sequence[str]) -> None:
    """Raise ValueError if the run cannot start from its `first_weights`.

    Raises CheckpointError if their card is damaged.
    """
    card = source_card(str(config.first_weights))
    names = ("network", "bn_scale", "ablation")
    saved, needed = (
        flatten_settings({name: asdict(x)[name] for name in names}) for x in (card, config)
    )
    if differences := setting_differences(saved, needed):
        raise ValueError(
            f"first_weights {one_line(config.first_weights)} are of another network "
            f"({'; '.join(differences)})."
        )
    if config.head == "kept" and card.class_names != tuple(class_names):
        raise ValueError(
            f"head kept needs the classes of {one_line(config.first_weights)}, "
            f"{_describe(card.class_names)}, but {one_line(config.data)} has "
            f"{_describe(class_names)}; use --head new."
        )


def _describe(names: Sequence[str]) -> str:
    return f"{len(names)} ({first_few(names, 3)})"


def load_first_weights(state: TrainState, config: RunConfig) -> TrainState:
    """Return `state` on the host, with the first weights as raw and averaged weights.

    Classifiers keep the values in `state`, except the main one with `head="kept"`.
    """
    _, loaded = load(str(config.first_weights))
    not_loaded = CLASSIFIERS if config.head == "new" else CLASSIFIERS[1:]
    state = jax.device_get(state)

    def merge(group: str, current: dict) -> dict:
        new = {name: x for name, x in loaded[group].items() if name not in not_loaded}
        # A copy at each call, because a buffer cannot be donated to the step twice.
        return jax.tree.map(lambda x: np.array(x, copy=True), current | new)

    params = merge("params", state.params)
    trained = trainable_params(params, config.optimizer)
    copies = make_copies(trained, config.parallel.stale_replicas)
    return state._replace(
        params=params,
        batch_stats=merge("batch_stats", state.batch_stats),
        ema_params=merge("params", state.params),
        ema_batch_stats=merge("batch_stats", state.batch_stats),
        replicas=jax.device_get(copies),
    )
