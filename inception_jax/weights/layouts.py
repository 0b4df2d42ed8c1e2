# SPDX-License-Identifier: Apache-2.0
"""What other libraries call the arrays of these networks, and how they lay them out.

`LAYOUTS` has a row for each source and network. names/SOURCE_NETWORK.json has the source's
convolution and batch norm for each layer of ours; that they are the right ones, equal
outputs show (tests/models/test_goldens.py).
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inception_jax.config import PreprocessSpec

# Of a layer of ours: the source's layer, and its batch norm or None.
Layers = Mapping[str, tuple[str, str | None]]

NAMES_FOLDER = Path(__file__).parent / "names"


@dataclass(frozen=True)
class Convention:
    """How a library calls the arrays of a layer, and lays out its kernels."""

    join: str  # between the layer and its array
    kernel: str
    bias: str
    beta: str
    mean: str
    variance: str
    gamma: str | None = None  # None: batch norm without it
    output_first: bool = False  # kernels OIHW and [out, in] instead of HWIO and [in, out]
    counts_batches: bool = False  # num_batches_tracked, an integer for each batch norm
    # What a training run keeps beside each array, and once: neither is part of a network.
    slots: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


TORCH = Convention(
    *(".", "weight", "bias", "bias", "running_mean", "running_var", "weight"),
    output_first=True,
    counts_batches=True,
)
KERAS = Convention("/", "kernel", "bias", "beta", "moving_mean", "moving_variance")
# The slots of the optimizers that slim/train_image_classifier.py and facenet can choose.
TENSORFLOW = Convention(
    *("/", "weights", "biases", "beta", "moving_mean", "moving_variance"),
    slots=(
        *("ExponentialMovingAverage", "RMSProp", "RMSProp_1", "Momentum", "Adagrad"),
        *("Adam", "Adam_1", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1"),
    ),
    extras=("global_step", "beta1_power", "beta2_power"),
)


@dataclass(frozen=True)
class Layout:
    """The arrays of a network in the files of one source, and what they are fed with."""

    source: str
    network: str
    convention: Convention
    preprocess: PreprocessSpec
    # Parts of our network that a file may lack as a whole.
    optional: tuple[str, ...] = ()
    # Of 1001 classes the first is "none of the 1000".
    background: bool = False

    def __str__(self) -> str:
        return f"{self.source}'s {self.network}"


# slim/preprocessing/inception_preprocessing.py, preprocess_for_eval: PreprocessSpec's own
# defaults, the central 0.875 of both sides stretched to 299x299, bilinear, in [-1, 1].
SLIM_PREPROCESS = PreprocessSpec()
# timm's default_cfg of each: crop_pct, interpolation="bicubic", mean and std 0.5.
TIMM_PREPROCESS = PreprocessSpec(crop_fraction=0.875, aspect="keep", resize="bicubic")
TIMM_RESNET_V2_PREPROCESS = PreprocessSpec(
    crop_fraction=0.8975, aspect="keep", resize="bicubic"
)
# pretrainedmodels/utils.py, TransformImage: scale=0.875, preserve_aspect_ratio=True, and
# the default of torchvision's Resize, bilinear.
CADENE_PREPROCESS = PreprocessSpec(crop_fraction=0.875, aspect="keep", resize="bilinear")
# keras.applications: the whole image as load_img(target_size=...) resizes it; mode="tf" of
# imagenet_utils.preprocess_input is x / 127.5 - 1.
KERAS_PREPROCESS = PreprocessSpec(crop_fraction=1.0)
# facenet.py (fixed image standardization) and facenet-pytorch: (x - 127.5) / 128 of a face
# that was cut out before.
FACENET_PREPROCESS = PreprocessSpec((160, 160, 3), 1.0, low=-127.5 / 128, high=127.5 / 128)

FACENET = "inception_resnet_v1_facenet"

LAYOUTS = (
    Layout("timm", "inception_v3", TORCH, TIMM_PREPROCESS),
    Layout("timm", "inception_v4", TORCH, TIMM_PREPROCESS),
    Layout("timm", "inception_resnet_v2", TORCH, TIMM_RESNET_V2_PREPROCESS),
    # Its names of v4 are timm's: only a file with the background class can be told apart.
    Layout("cadene", "inception_v4", TORCH, CADENE_PREPROCESS, background=True),
    Layout("cadene", "inception_resnet_v2", TORCH, CADENE_PREPROCESS, background=True),
    Layout("slim", "inception_v4", TENSORFLOW, SLIM_PREPROCESS, ("AuxLogits",), True),
    Layout(
        "slim", "inception_resnet_v2", TENSORFLOW, SLIM_PREPROCESS, ("AuxLogits",), True
    ),
    Layout("keras", "inception_v3", KERAS, KERAS_PREPROCESS, ("Logits",)),
    Layout("keras", "inception_resnet_v2", KERAS, KERAS_PREPROCESS, ("Logits",)),
    Layout("facenet-pytorch", FACENET, TORCH, FACENET_PREPROCESS, ("Logits",)),
    Layout("facenet", FACENET, TENSORFLOW, FACENET_PREPROCESS, ("Logits",)),
)


def find_layout(source: str, network: str) -> Layout:
    """The row of LAYOUTS; ValueError, with the rows there are, if there is none."""
    for layout in LAYOUTS:
        if (layout.source, layout.network) == (source, network):
            return layout
    known = ", ".join(f"{x.source} {x.network}" for x in LAYOUTS)
    raise ValueError(f"no layout of {network} in {source}; there are: {known}.")


@cache
def layer_names(layout: Layout) -> Layers:
    """The source's layers by ours, all of them, in the order of the names' file."""
    if layout.convention is TENSORFLOW:
        return _slim_layers(layout)
    file = {
        "timm": f"timm_{layout.network}",
        "cadene": f"timm_{layout.network}",
        "keras": f"keras_{layout.network}",
        "facenet-pytorch": "facenet_pytorch_inception_resnet_v1",
    }[layout.source]
    text = (NAMES_FOLDER / f"{file}.json").read_text(encoding="utf-8")
    layers = {ours: (conv, norm) for ours, (conv, norm) in json.loads(text).items()}
    if layout.source == "cadene":
        layers["Logits"] = ("last_linear", None)
    if layout.source == "facenet-pytorch":
        layers["Logits"] = ("logits", None)
    return layers


# The scope around each network, and those around its residual blocks.
SLIM_SCOPES = {
    "inception_v4": "InceptionV4",
    "inception_resnet_v2": "InceptionResnetV2",
    FACENET: "InceptionResnetV1",
}
SLIM_STACKS = {"block35": "Repeat", "block17": "Repeat_1", "block8": "Repeat_2"}


def _slim_layers(layout: Layout) -> Layers:
    """slim's scopes by a rule: our names are slim's, without the network and its stacks."""
    network = layout.network
    like = {FACENET: "facenet-pytorch"}.get(network, "timm")
    found = {
        ours: norm is not None
        for ours, (_, norm) in layer_names(find_layout(like, network)).items()
    }
    if "AuxLogits" in layout.optional:
        boxes = ("AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a_5x5")
        found |= dict.fromkeys(boxes, True) | {"AuxLogits/Logits": False}
    layers = {}
    for ours, normalised in found.items():
        scope = _slim_scope(network, ours)
        layers[ours] = (scope, f"{scope}/BatchNorm" if normalised else None)
    return layers


def _slim_scope(network: str, ours: str) -> str:
    if ours == "Logits":  # facenet's stands beside the network: train_softmax.py
        return "Logits" if network == FACENET else f"{SLIM_SCOPES[network]}/Logits/Logits"
    if network == "inception_v4":  # slim/nets/inception_v4.py calls two of them otherwise
        ours = ours.replace("AuxLogits/Conv2d_2a_5x5", "AuxLogits/Conv2d_2a")
        ours = ours.replace("AuxLogits/Logits", "AuxLogits/Aux_logits")
    ours = ours.removeprefix("Stem/")
    stack = SLIM_STACKS.get(ours.split("_")[0])
    return "/".join(part for part in (SLIM_SCOPES[network], stack, ours) if part)


def array_names(layout: Layout, without: Collection[str] = ()) -> dict[str, str]:
    """The source's names of arrays by ours, but of the parts `without`."""
    return {
        ours: theirs
        for layer, (conv, norm) in layer_names(layout).items()
        if layer.split("/")[0] not in without
        for ours, theirs in _of_layer(layout.convention, layer, conv, norm)
    }


def ignored_names(layout: Layout) -> set[str]:
    """Names in the source's files that are known and belong to no network."""
    words = layout.convention
    norms = [norm for _, norm in layer_names(layout).values() if norm]
    counts = {f"{norm}.num_batches_tracked" for norm in norms if words.counts_batches}
    slots = {f"{x}/{slot}" for x in array_names(layout).values() for slot in words.slots}
    return counts | slots | set(words.extras)


def _of_layer(
    words: Convention, layer: str, conv: str, norm: str | None
) -> Iterator[tuple[str, str]]:
    if norm is None:
        yield f"params/{layer}/kernel", f"{conv}{words.join}{words.kernel}"
        yield f"params/{layer}/bias", f"{conv}{words.join}{words.bias}"
        return
    linear = "fc" if layer == "Bottleneck" else "conv"
    yield f"params/{layer}/{linear}/kernel", f"{conv}{words.join}{words.kernel}"
    if words.gamma is not None:
        yield f"params/{layer}/bn/scale", f"{norm}{words.join}{words.gamma}"
    yield f"params/{layer}/bn/bias", f"{norm}{words.join}{words.beta}"
    yield f"batch_stats/{layer}/bn/mean", f"{norm}{words.join}{words.mean}"
    yield f"batch_stats/{layer}/bn/var", f"{norm}{words.join}{words.variance}"
