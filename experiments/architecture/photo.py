# SPDX-License-Identifier: Apache-2.0
"""The feature maps of a photo, and the size of the stream in residual networks."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.architecture.drawings import TEXT
from inception_jax.config import PreprocessSpec
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.spec import NetworkSpec
from inception_jax.models.zoo import get_spec
from inception_jax.weights.model import Model, load, models_folder
from inception_jax.weights.model_folder import Card, Origin, Variables, is_model_folder

DASHES = ("-", "--", "-.", ":")  # so that lines differ without colour
PIXELS = 149  # half the published size, so that a photo takes a moment


def random_model(network: str = "inception_resnet_v1") -> tuple[Model, Variables]:
    """Return a network without a classifier for photos of `PIXELS`, with random weights."""
    shape = (PIXELS, PIXELS, get_spec(network).image_shape[2])
    model = Model(Card(network, PreprocessSpec(shape), (), Origin("random", "")))
    return model, random_variables(model)


def local_or_random_model() -> tuple[Model, Variables]:
    """Return the first model in `models_folder` for photos of `PIXELS`, or a random one."""
    for folder in filter(is_model_folder, sorted(models_folder().glob("*"))):
        model, variables = load(folder)
        card, spec = model.card, model.card.preprocess
        spec = replace(spec, image_shape=(PIXELS, PIXELS, spec.image_shape[2]))
        return Model(replace(card, preprocess=spec)), variables
    return random_model()


def random_variables(model: Model, seed: int = 0) -> Variables:
    """Return He-normal kernels, zero biases and identity batch norm, without compiling."""
    rng = np.random.default_rng(seed)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key != "kernel":
            return jnp.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)
        stddev = np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32)
        return jnp.asarray(stddev * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree_util.tree_map_with_path(fill, model.shapes)


def landmark_endpoints(spec: NetworkSpec) -> tuple[str, ...]:
    """Return five endpoints: two of the stem, the last A, Reduction-A and the last B."""
    stem = [name for name, _ in spec.stem().steps]
    last = {stage.role: stage.names[-1] for stage in spec.stages}
    return (stem[2], stem[-1], last["A"], last["Reduction-A"], last["B"])


def endpoints_of(
    model: Model, variables: Variables, images: jax.Array, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the named endpoints; layers that they do not need are not computed."""

    @jax.jit
    def run(variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        _, endpoints = model.apply(variables, images)
        return {name: endpoints[name] for name in names}

    endpoints = jax.device_get(run(variables, images))
    return {name: endpoints[name] for name in names}  # jit sorts the names


def draw_feature_maps(
    model: Model, photo: jax.Array, maps: dict[str, np.ndarray]
) -> Figure:
    """Draw a photo, as `Model.prepare` returns it, and one channel of each feature map.

    Frames in the photo show the receptive fields of the centres of the feature maps. The
    channel is the one with the largest standard deviation.
    """
    fields = receptive_fields(model.network.spec)
    figure = Figure(figsize=(10, 6.9), layout="constrained")
    first, *panels = figure.subplots(2, 3).flat
    low, high = model.card.preprocess.low, model.card.preprocess.high
    first.imshow(np.clip((np.asarray(photo) - low) / (high - low), 0, 1))
    first.set_title("frames: receptive fields of the centres", fontsize=TEXT + 1)
    for axes, (name, batch) in zip(panels, maps.items(), strict=True):
        (values,) = batch  # of one image
        channel = values.std((0, 1)).argmax()
        axes.imshow(values[..., channel], cmap="cividis")
        height, width, channels = values.shape
        title = f"{name}: {height}x{width}, channel {channel} of {channels}"
        axes.set_title(title, fontsize=TEXT + 1)
        top, left, bottom, right = fields[name].pixels_of(height // 2, width // 2)
        if bottom - top < PIXELS:
            _frame(first, top, left, bottom, right, name)
    for axes in (first, *panels):
        axes.set_axis_off()
    return figure


def _frame(axes: Axes, top: int, left: int, bottom: int, right: int, name: str) -> None:
    corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
    for width, color in ((3.0, "black"), (1.4, "white")):
        axes.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=width)
        )
    text = axes.text(left, top - 2, name, color="white", fontsize=TEXT - 1, va="bottom")
    text.set_bbox({"facecolor": "black", "pad": 1, "linewidth": 0})


def draw_streams(
    model: Model, variables: Variables, images: jax.Array, scales: Sequence[float]
) -> Figure:
    """Draw the standard deviation after each residual block for several residual scales."""
    stages = [stage for stage in model.network.spec.stages if stage.scale is not None]
    names = [name for stage in stages for name in stage.names]

    @jax.jit  # once for all scales, since the scale is an argument
    def deviations(
        variables: Variables, images: jax.Array, scale: jax.Array
    ) -> list[jax.Array]:
        _, endpoints = model.apply(variables, images, scale)
        return [endpoints[name].std() for name in names]

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots()
    for scale, dashes in zip(scales, cycle(DASHES), strict=False):
        values = np.array(deviations(variables, images, jnp.float32(scale)))
        blocks, label = np.arange(1, len(values) + 1), f"scale {scale:g}"
        axes.plot(blocks, values, label=label, linewidth=2, linestyle=dashes)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="residual block", ylabel="standard deviation of its output")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=TEXT)
    return figure
