# SPDX-License-Identifier: Apache-2.0
"""Networks with their weights, ready to use: `inception_jax.load`."""

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

from inception_jax.config import PreprocessSpec
from inception_jax.data.augment import normalize
from inception_jax.data.crops import eval_views
from inception_jax.data.decoding import convert_channels, decode
from inception_jax.models.ablation import spec_for
from inception_jax.models.inputs import ResidualScale, Shaped
from inception_jax.models.network import Network, create
from inception_jax.models.stem import Endpoints
from inception_jax.storage import run_folder
from inception_jax.storage.digests import by_name, some
from inception_jax.text import one_line
from inception_jax.weights import model_folder
from inception_jax.weights.model_folder import Card, Origin, Variables

if TYPE_CHECKING:
    from inception_jax.storage.checkpoints import Checkpoints

# What an image can be given as: a file, its bytes, or pixels [h, w] or [h, w, c].
Image = str | Path | bytes | np.ndarray
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A network as a pure function of variables and images, and how to feed it."""

    card: Card
    folded: bool = False  # by `inception_jax.fold`

    @cached_property
    def network(self) -> Network:
        """The Flax module. Raises ValueError where there is no such network."""
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
        images: Shaped,
        residual_scale: ResidualScale = None,
        **options: Any,
    ) -> tuple[Float[Array, "n k"], Endpoints]:
        """`(logits, endpoints)` of images in the network's range: see `Network`.

        Works inside jit, grad and vmap. The residual scale is by default the one the
        weights were trained with. `options` go to Flax: train, mutable, rngs.
        """
        if residual_scale is None and not self.folded:
            residual_scale = self.card.residual_scale
        return self.network.apply(variables, images, residual_scale, **options)

    def prepare(self, images: Sequence[Image]) -> Float[Array, "n h w c"]:
        """Images as `apply` takes them: decoded, cut, resized, in the network's range.

        Raises UnreadableImage, naming the file, TypeError on pixels that are not uint8, and
        ImportError without the `data` extra.
        """
        spec = self.card.preprocess
        views = [eval_views(_pixels(image, spec), spec, 1)[0] for image in images]
        return normalize(jnp.asarray(np.stack(views)), spec.low, spec.high)


def _pixels(image: Image, spec: PreprocessSpec) -> UInt8[np.ndarray, "h w c"]:
    channels = spec.image_shape[2]
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
    """`model, variables` of a model folder, a run's folder, or a name in `models_folder`.

    Of a run it is the newest good checkpoint (or that of `step`), averaged weights or, with
    weights="raw", as trained; this needs the `train` extra. All that is read is compared
    with its digests, and names and shapes with the network's.

    Raises ValueError where there is no such model, or its variables are not the network's;
    CheckpointError where what is there is damaged.
    """
    folder = find_model(path_or_name)
    if not model_folder.is_model_folder(folder):
        card, arrays = read_run(folder, weights, step)
    elif step is None and weights == "ema":
        card, arrays = model_folder.read(folder)
    else:
        raise ValueError(
            f"{folder} is a model folder with one set of weights; weights and step can be "
            "chosen of a run."
        )
    model, variables = Model(card), unflatten_dict(arrays, sep="/")
    check_variables(model, variables, str(folder))
    return model, jax.tree.map(jnp.asarray, variables)


def save(folder: Path, card: Card, variables: Variables) -> None:
    """Write a model folder, whole or not at all.

    Raises ValueError where the folder is there already or the variables are not those of
    the card's network; CheckpointError where it cannot be written.
    """
    check_variables(Model(card), variables, "the given variables")
    model_folder.write(folder, card, variables)


def check_variables(model: Model, variables: Variables, what: str) -> None:
    """Raise ValueError, naming the arrays, where `variables` are not the network's."""
    here, needed = by_name(variables), by_name(model.shapes)
    wrong = [f"{name} is missing" for name in needed if name not in here]
    wrong += [f"{name} is left over" for name in here if name not in needed]
    wrong += [
        f"{name} is {list(x.shape)} instead of {list(needed[name].shape)}"
        for name, x in here.items()
        if name in needed and x.shape != needed[name].shape
    ]
    if wrong:
        raise ValueError(f"{what} does not fit {model.card.network}: {some(wrong)}.")


def models_folder() -> Path:
    """Where models are looked up by name: $INCEPTION_JAX_MODELS, or a folder of the user's
    own."""
    default = Path.home() / ".local" / "share" / "inception_jax" / "models"
    return Path(os.environ.get("INCEPTION_JAX_MODELS") or default)


def find_model(path_or_name: str | Path) -> Path:
    """Folder of a model or of a run, as `load` takes them; ValueError if there is none."""
    path = Path(os.path.expanduser(path_or_name))
    candidates = (path, models_folder() / path) if len(path.parts) == 1 else (path,)
    for folder in candidates:
        is_run = run_folder.record_path(folder).is_file()
        if is_run or model_folder.is_model_folder(folder):
            return folder
    cards = models_folder().glob(f"*/{model_folder.CARD_FILE}")
    available = sorted(card.parent.name for card in cards)
    raise ValueError(
        f"there is no model {one_line(path_or_name)}: expected a folder that inception-jax "
        f"weights import or a run wrote, or one of the names in {models_folder()}: "
        f"{', '.join(map(one_line, available)) or 'none'}."
    )


def card_of_run(folder: Path, weights: str | None, step: int) -> Card:
    """The card of a run's weights; weights=None: of both kinds.

    Raises ValueError where the folder holds no run.
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


def read_run(folder: Path, weights: str, step: int | None) -> tuple[Card, Arrays]:
    """The card and the arrays by name of a run's checkpoint, or of its newest good one.

    Raises what `read_checkpoint` and `card_of_run` raise.
    """
    step, arrays = read_checkpoint(folder, step)
    prefix = {"raw": "", "ema": "ema_"}[weights]
    groups = tuple(f"{prefix}{group}/" for group in ("params", "batch_stats"))
    chosen = {
        name.removeprefix(prefix): x
        for name, x in arrays.items()
        if name.startswith(groups)
    }
    return card_of_run(folder, weights, step), chosen


def open_checkpoints(run: Path) -> "Checkpoints":
    """To look at. Raises ValueError where there is no run or no checkpoint, ImportError
    without the `train` extra."""
    try:
        from inception_jax.storage.checkpoints import Checkpoints
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is missing: pip install "inception_jax[train]"'
        ) from None
    folder = run_folder.checkpoints_path(run)
    saved = Checkpoints(folder)
    if not saved.steps():
        raise ValueError(f"{run} holds no checkpoint: there is none in {folder}.")
    return saved


def check_step(saved: "Checkpoints", run: Path, step: int) -> int:
    """`step`, if there is a checkpoint of it; else ValueError."""
    if step not in saved.steps():
        raise ValueError(
            f"{run} holds no checkpoint of step {step}; there are: "
            f"{', '.join(map(str, saved.steps()))}."
        )
    return step


def read_checkpoint(run: Path, step: int | None = None) -> tuple[int, Arrays]:
    """Step and arrays by name of a run's checkpoint, or of its newest good one, verified.

    Raises as `open_checkpoints` and `check_step` do, CheckpointError where it is damaged.
    """
    saved = open_checkpoints(run)
    if step is not None:
        return step, saved.read(check_step(saved, run, step))
    newest = saved.read_newest()
    assert newest is not None  # there are steps
    return newest
