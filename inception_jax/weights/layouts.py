# SPDX-License-Identifier: Apache-2.0
"""Names and axis orders of these networks' arrays in the files of other libraries.

`LAYOUTS` has a row for each library and network. For each layer of this package,
names/LIBRARY_NETWORK.json has the library's convolution and batch norm. Tests check this
pairing by comparing outputs (tests/models/test_goldens.py).
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from inception_jax.config import PreprocessSpec

# For each layer of this package: the library's layer, and its batch norm or None.
Layers = Mapping[str, tuple[str, str | None]]

NAMES_FOLDER = Path(__file__).parent / "names"


@dataclass(frozen=True)
class Convention:
    """How a library names the arrays of a layer, and how it orders a kernel's axes."""

    separator: str  # between the layer's name and the array's
    kernel: str
    bias: str
    beta: str
    mean: str
    variance: str
    gamma: str | None = None  # None: batch norm has no gamma
    output_first: bool = False  # kernels are OIHW and [out, in], not HWIO and [in, out]
    counts_batches: bool = False  # each batch norm has an integer num_batches_tracked
    # Suffixes of the arrays that training adds for each array, and names of those that it
    # adds once per file. These arrays are not imported.
    slots: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


TORCH = replace(
    Convention(".", "weight", "bias", "bias", "running_mean", "running_var", "weight"),
    output_first=True,
    counts_batches=True,
)
KERAS = Convention("/", "kernel", "bias", "beta", "moving_mean", "moving_variance")
TENSORFLOW = replace(
    Convention("/", "weights", "biases", "beta", "moving_mean", "moving_variance"),
    # For every optimizer of slim/train_image_classifier.py and facenet.
    slots=(
        *("ExponentialMovingAverage", "RMSProp", "RMSProp_1", "Momentum", "Adagrad"),
        *("Adam", "Adam_1", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1"),
    ),
    extras=("global_step", "beta1_power", "beta2_power"),
)


@dataclass(frozen=True)
class Layout:
    """The arrays of a network in the files of one library, and the network's input."""

    library: str
    network: str
    convention: Convention
    preprocess: PreprocessSpec
    # Parts of the network that a file may lack.
    optional: tuple[str, ...] = ()
    # The first of 1001 classes is the background class.
    background: bool = False

    def __str__(self) -> str:
        return f"{self.library}'s {self.network}"


# slim/preprocessing/inception_preprocessing.py, preprocess_for_eval: the defaults of
# PreprocessSpec (the central 0.875 of both sides stretched to 299x299, bilinear, [-1, 1]).
SLIM_INPUT = PreprocessSpec()
# The default_cfg of each timm model: crop_pct, interpolation="bicubic", mean and std 0.5.
TIMM_INPUT = PreprocessSpec(crop_fraction=0.875, aspect="keep", resize="bicubic")
TIMM_RESNET_V2_INPUT = replace(TIMM_INPUT, crop_fraction=0.8975)
# pretrainedmodels/utils.py, TransformImage: scale=0.875, preserve_aspect_ratio=True, and
# bilinear, the default of torchvision's Resize.
CADENE_INPUT = PreprocessSpec(crop_fraction=0.875, aspect="keep", resize="bilinear")
# keras.applications: the whole image as load_img(target_size=...) resizes it; mode="tf" of
# imagenet_utils.preprocess_input is x / 127.5 - 1.
KERAS_INPUT = PreprocessSpec(crop_fraction=1.0)
# facenet.py (fixed image standardization) and facenet-pytorch: (x - 127.5) / 128 of an
# image that is cropped to the face.
FACENET_INPUT = PreprocessSpec((160, 160, 3), 1.0, low=-127.5 / 128, high=127.5 / 128)

FACENET = "inception_resnet_v1_facenet"
AUX, HEAD = ("AuxLogits",), ("Logits",)

LAYOUTS = (
    Layout("timm", "inception_v3", TORCH, TIMM_INPUT),
    Layout("timm", "inception_v4", TORCH, TIMM_INPUT),
    Layout("timm", "inception_resnet_v2", TORCH, TIMM_RESNET_V2_INPUT),
    # Cadene's v4 has timm's names: only the background class distinguishes its files.
    Layout("cadene", "inception_v4", TORCH, CADENE_INPUT, background=True),
    Layout("cadene", "inception_resnet_v2", TORCH, CADENE_INPUT, background=True),
    Layout("slim", "inception_v4", TENSORFLOW, SLIM_INPUT, AUX, background=True),
    Layout("slim", "inception_resnet_v2", TENSORFLOW, SLIM_INPUT, AUX, background=True),
    Layout("keras", "inception_v3", KERAS, KERAS_INPUT, HEAD),
    Layout("keras", "inception_resnet_v2", KERAS, KERAS_INPUT, HEAD),
    Layout("facenet-pytorch", FACENET, TORCH, FACENET_INPUT, HEAD),
    Layout("facenet", FACENET, TENSORFLOW, FACENET_INPUT, HEAD),
)


def find_layout(library: str, network: str) -> Layout:
    """Return the row of `LAYOUTS`. Raises ValueError, with a list, if there is none."""
    for layout in LAYOUTS:
        if (layout.library, layout.network) == (library, network):
            return layout
    supported = ", ".join(x.network for x in LAYOUTS if x.library == library)
    raise ValueError(f"{library} does not have {network}; supported are: {supported}.")


@cache
def layer_names(layout: Layout) -> Layers:
    """Return the library's names of all layers, keyed by this package's names."""
    if layout.convention is TENSORFLOW:
        return _slim_layer_names(layout)
    library = "timm" if layout.library == "cadene" else layout.library.replace("-", "_")
    file = f"{library}_{layout.network.removesuffix('_facenet')}.json"
    layers = {layer: (linear, norm) for layer, (linear, norm) in _read_names(file).items()}
    if layout.library == "cadene":
        layers["Logits"] = ("last_linear", None)
    if layout.library == "facenet-pytorch":
        layers["Logits"] = ("logits", None)
    return layers


def keras_layer_order(network: str) -> list[str]:
    """Return Keras's layers that have arrays, in the order of `model.layers`, by depth.

    The numbers in the names count in the order of creation. Source: keras 3.15.1.
    """
    return _read_names(f"keras_{network}_order.json")


def _read_names(file: str) -> Any:
    return json.loads((NAMES_FOLDER / file).read_text(encoding="utf-8"))


# The scope around each network, and those around its residual blocks.
SLIM_SCOPES = {
    "inception_v4": "InceptionV4",
    "inception_resnet_v2": "InceptionResnetV2",
    FACENET: "InceptionResnetV1",
}
SLIM_STACKS = {"block35": "Repeat", "block17": "Repeat_1", "block8": "Repeat_2"}


def _slim_layer_names(layout: Layout) -> Layers:
    """Return slim's names: this package's, inside the scopes of network and stack."""
    network = layout.network
    same_layers = find_layout("facenet-pytorch" if network == FACENET else "timm", network)
    has_norm = {
        layer: norm is not None for layer, (_, norm) in layer_names(same_layers).items()
    }
    if "AuxLogits" in layout.optional:
        has_norm |= {"AuxLogits/Conv2d_1b_1x1": True, "AuxLogits/Conv2d_2a_5x5": True}
        has_norm["AuxLogits/Logits"] = False
    layers = {}
    for layer, normalised in has_norm.items():
        scope = _slim_scope(network, layer)
        layers[layer] = (scope, f"{scope}/BatchNorm" if normalised else None)
    return layers


def _slim_scope(network: str, layer: str) -> str:
    if layer == "Logits":  # facenet's is outside the network's scope: train_softmax.py
        return "Logits" if network == FACENET else f"{SLIM_SCOPES[network]}/Logits/Logits"
    if network == "inception_v4":  # slim/nets/inception_v4.py has two exceptions
        layer = layer.replace("AuxLogits/Conv2d_2a_5x5", "AuxLogits/Conv2d_2a")
        layer = layer.replace("AuxLogits/Logits", "AuxLogits/Aux_logits")
    layer = layer.removeprefix("Stem/")
    stack = SLIM_STACKS.get(layer.split("_")[0])
    return "/".join(scope for scope in (SLIM_SCOPES[network], stack, layer) if scope)


def array_names(layout: Layout, exclude: Collection[str] = ()) -> dict[str, str]:
    """Return the library's array names by this package's, except for parts in `exclude`."""
    names: dict[str, str] = {}
    for layer, (linear, norm) in layer_names(layout).items():
        if layer.split("/")[0] not in exclude:
            names.update(_layer_arrays(layout.convention, layer, linear, norm))
    return names


def ignored_names(layout: Layout) -> set[str]:
    """Return names that may be in the library's files but that no network uses."""
    convention = layout.convention
    names = set(convention.extras)
    if convention.counts_batches:
        norms = (norm for _, norm in layer_names(layout).values() if norm)
        names.update(f"{norm}.num_batches_tracked" for norm in norms)
    for slot in convention.slots:
        names.update(f"{name}/{slot}" for name in array_names(layout).values())
    return names


def _layer_arrays(
    convention: Convention, layer: str, library_linear: str, library_norm: str | None
) -> Iterator[tuple[str, str]]:
    """Yield pairs of this package's and the library's name for the arrays of a layer."""
    linear = f"{library_linear}{convention.separator}"
    if library_norm is None:
        yield f"params/{layer}/kernel", linear + convention.kernel
        yield f"params/{layer}/bias", linear + convention.bias
        return
    kind, norm = linear_kind(layer), f"{library_norm}{convention.separator}"
    yield f"params/{layer}/{kind}/kernel", linear + convention.kernel
    if convention.gamma is not None:
        yield f"params/{layer}/bn/scale", norm + convention.gamma
    yield f"params/{layer}/bn/bias", norm + convention.beta
    yield f"batch_stats/{layer}/bn/mean", norm + convention.mean
    yield f"batch_stats/{layer}/bn/var", norm + convention.variance


def linear_kind(layer: str) -> str:
    """Return this package's name of the linear module in a layer with batch norm."""
    return "fc" if layer == "Bottleneck" else "conv"
