# SPDX-License-Identifier: Apache-2.0
"""Networks with their weights: `inception_jax.Model`, `load` and `save`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, UInt8

from inception_jax.data.augment import normalize
from inception_jax.data.crops import eval_views
from inception_jax.data.decoding import convert_channels, decode
from inception_jax.models.ablation import spec_for
from inception_jax.models.inputs import ImageArray, ResidualScale
from inception_jax.models.network import Network, create
from inception_jax.models.stem import Endpoints
from inception_jax.storage import run_folder
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.text import first_few, one_line
from inception_jax.weights import model_folder
from inception_jax.weights.model_folder import Card, Origin, Variables

if TYPE_CHECKING:
    from inception_jax.storage.checkpoints import Checkpoints

# An image file, its bytes, or uint8 pixels [h, w] or [h, w, c].
Image = str | Path | bytes | np.ndarray
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A network as a pure function of variables and images, with its model card.

    `load` returns one together with its variables; the card has the network's name, the
    preprocessing and the class names.

    >>> model, variables = inception_jax.load("models/v4")
    >>> images = model.prepare(["photo.jpg"])
    >>> logits, endpoints = jax.jit(model.apply)(variables, images)
    >>> model.card.class_names[logits[0].argmax()]
    """

    card: Card
    folded: bool = False  # set by `inception_jax.fold`

    @cached_property
    def network(self) -> Network:
        """The Flax module. Raises ValueError if the card's network does not exist."""
        card = self.card
        return create(
            spec_for(card.network, card.ablation),
            num_classes=len(card.class_names),
            bn_scale=card.bn_scale,
            aux_head=card.aux_head,
            folded=self.folded,
        )

    @property
    def shapes(self) -> Variables:
        """The variables as `jax.ShapeDtypeStruct`s."""
        images = jax.ShapeDtypeStruct((1, *self.card.preprocess.image_shape), jnp.float32)
        return jax.eval_shape(self.network.init, jax.random.key(0), images)

    def apply(
        self,
        variables: Variables,
        images: ImageArray,
        residual_scale: ResidualScale = None,
        **options: Any,
    ) -> tuple[Float[Array, "n k"], Endpoints]:
        """Return `(logits, endpoints)` for images `[n, h, w, c]`, such as from `prepare`.

        Works inside jit, grad and vmap. The default residual scale is the one that the
        weights were trained with. `options` are passed to the network's `apply`: train,
        mutable, rngs.
        """
        if residual_scale is None and not self.folded:
            residual_scale = self.card.residual_scale
        result: Any = self.network.apply(variables, images, residual_scale, **options)
        return result

    def prepare(self, images: Sequence[Image]) -> Float[Array, "n h w c"]:
        """Decode, crop, resize and normalise images as the card says.

        Images are files, their bytes, or uint8 pixels. Raises UnreadableImage, naming the
        file, TypeError for other pixels, or ImportError without the `data` extra.
        """
        spec = self.card.preprocess
        channels = spec.image_shape[2]
        views = [eval_views(_pixels(image, channels), spec, 1)[0] for image in images]
        return normalize(jnp.asarray(np.stack(views)), spec.low, spec.high)


def _pixels(image: Image, channels: int) -> UInt8[np.ndarray, "h w c"]:
    if isinstance(image, str | Path):
        return decode(Path(image).read_bytes(), str(image), channels)
    if isinstance(image, bytes):
        return decode(image, "the image", channels)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise TypeError(
            "an image must be a file, its bytes or uint8 pixels [height, width, channels], "
            f"got {pixels.dtype} of shape {pixels.shape}."
        )
    return convert_channels(pixels.reshape(*pixels.shape[:2], -1), channels)


def load(
    path_or_name: str | Path,
    *,
    weights: Literal["ema", "raw"] = "ema",
    step: int | None = None,
) -> tuple[Model, Variables]:
    """Load `(model, variables)` from a model folder or a checkpoint of a run.

    >>> model, variables = inception_jax.load("runs/digits", weights="raw", step=400)

    Digests, names and shapes of all arrays are verified.

    Args:
        path_or_name: a model folder, a run folder, or a model's name in `models_folder()`.
        weights: for a run, averaged ("ema") or raw weights.
        step: for a run, the step of the checkpoint; default: the newest undamaged one.

    Raises ValueError if there is no such model or its network cannot use the variables,
    CheckpointError if a file is damaged, or, for a run, ImportError without `train`.
    """
    folder = find_model(path_or_name)
    if not model_folder.is_model_folder(folder):
        card, arrays = read_run(folder, weights, step)
    elif step is None and weights == "ema":
        card, arrays = model_folder.read(folder)
    else:
        raise ValueError(
            f"{folder} is a model folder with one set of weights; weights and step can be "
            "chosen only for a run."
        )
    model, variables = Model(card), unflatten_dict(arrays, sep="/")
    check_variables(model, variables, str(folder))
    return model, jax.tree.map(jnp.asarray, variables)


def save(folder: str | Path, card: Card, variables: Variables) -> None:
    """Write variables and their card to a new model folder, from which `load` reads them.

    >>> model, variables = inception_jax.load("runs/digits")
    >>> inception_jax.save("models/digits", model.card, variables)

    Raises ValueError if the folder exists or the card's network cannot use the variables,
    or CheckpointError if writing fails; the folder is then not created.
    """
    check_variables(Model(card), variables, "these variables")
    model_folder.write(Path(folder), card, variables)


def check_variables(model: Model, variables: Variables, subject: str) -> None:
    """Raise ValueError, naming `subject`, unless names and shapes match the model's."""
    arrays, expected = flatten_with_paths(variables), flatten_with_paths(model.shapes)
    problems = [f"{name} is missing" for name in expected if name not in arrays]
    problems += [f"{name} is unexpected" for name in arrays if name not in expected]
    problems += [
        f"{name} is {list(x.shape)} instead of {list(expected[name].shape)}"
        for name, x in arrays.items()
        if name in expected and x.shape != expected[name].shape
    ]
    if problems:
        raise ValueError(
            f"{model.card.network} cannot use {subject}: {first_few(problems)}."
        )


def models_folder() -> Path:
    """Return the folder of named models: $INCEPTION_JAX_MODELS or its default."""
    default = Path.home() / ".local" / "share" / "inception_jax" / "models"
    return Path(os.environ.get("INCEPTION_JAX_MODELS") or default)


def find_model(path_or_name: str | Path) -> Path:
    """Return the model folder or run folder that `load` reads.

    A path of one component may also name a folder in `models_folder()`. Raises ValueError,
    with a list of the named models, if there is none.
    """
    path = Path(os.path.expanduser(path_or_name))
    candidates = (path, models_folder() / path) if len(path.parts) == 1 else (path,)
    for folder in candidates:
        is_run = (folder / run_folder.RECORD_FILE).is_file()
        if is_run or model_folder.is_model_folder(folder):
            return folder
    cards = models_folder().glob(f"*/{model_folder.CARD_FILE}")
    names = ", ".join(sorted(one_line(card.parent.name) for card in cards))
    raise ValueError(
        f"there is no model {one_line(path_or_name)}: expected a folder written by "
        "inception-jax weights import or by a run, or one of the names in "
        f"{models_folder()}: {names or 'none'}."
    )


def card_of_run(folder: Path, weights: str | None, step: int) -> Card:
    """Return the card of a run's weights; weights=None stands for both kinds.

    Raises ValueError if the folder is not a run.
    """
    record = run_folder.read_record(folder)
    config = record.config
    return Card(
        network=config.network,
        preprocess=record.preprocess,
        class_names=record.class_names,
        origin=Origin("run", str(folder), step=step, weights=weights),
        bn_scale=config.bn_scale,
        aux_head=config.aux_head,
        residual_scale=config.residual_scale,
        ablation=config.ablation,
    )


def read_run(run: Path, weights: str, step: int | None) -> tuple[Card, Arrays]:
    """Read a run's card and the arrays by name of its "raw" or "ema" weights."""
    step, arrays = read_checkpoint(run, step)
    prefix = {"raw": "", "ema": "ema_"}[weights]
    groups = (f"{prefix}params/", f"{prefix}batch_stats/")
    chosen = {
        name.removeprefix(prefix): x
        for name, x in arrays.items()
        if name.startswith(groups)
    }
    return card_of_run(run, weights, step), chosen


def open_checkpoints(run: Path, step: int | None = None) -> "Checkpoints":
    """Open the checkpoints of a run for reading.

    Raises ValueError if there is none, or none of `step`; ImportError without the `train`
    extra.
    """
    try:
        from inception_jax.storage.checkpoints import Checkpoints
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is missing: pip install "inception_jax[train]"'
        ) from None
    folder = run / run_folder.CHECKPOINTS_FOLDER
    checkpoints = Checkpoints(folder)
    steps = checkpoints.steps()
    if not steps:
        raise ValueError(f"{run} holds no checkpoint: there is none in {folder}.")
    if step is not None and step not in steps:
        raise ValueError(
            f"{run} holds no checkpoint of step {step}; there are: "
            f"{', '.join(map(str, steps))}."
        )
    return checkpoints


def read_checkpoint(run: Path, step: int | None = None) -> tuple[int, Arrays]:
    """Return the step and the verified arrays of a checkpoint.

    Raises the errors of `open_checkpoints`, or CheckpointError if no good one is left.
    """
    checkpoints = open_checkpoints(run, step)
    if step is not None:
        return step, checkpoints.read(step)
    newest = checkpoints.read_newest()
    assert newest is not None  # `open_checkpoints` found at least one
    return newest
