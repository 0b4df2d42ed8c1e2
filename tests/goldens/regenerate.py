# SPDX-License-Identifier: Apache-2.0
"""Makes the goldens again by running other people's networks.

    python -m tests.goldens.regenerate timm_inception_v4 [--out DIR] [--check]

The source's model gets the weights of fill.py and sees its two images. Keys of a file:

- `logits_<size>`, `logits_<size>_f32`: the outputs in float64 and in float32;
- `tap/<stage>/shape`, `stats`, `probe`: shape (NHWC) and `tap_figures` of every stage,
  from the float64 run at the native size;
- `train_logits_<size>`, `train_bn/<layer>/running_mean`, `running_var`: one forward
  pass in training mode, in float64 and without dropout, and the first 16 moving
  averages after it. These and the outputs at 75 pixels are missing for Keras.

The file replaces the one here or goes to DIR. With `--check` nothing is written: the
new figures are compared with the file here, and the exit status is 1 if they differ.
Nothing is downloaded. torch 2.14.1, torchvision 0.29.1, timm 1.0.31, facenet-pytorch
2.6.0 and keras 3.15.1 on jax 0.10.2 give the files that are here.
"""

import argparse
import os
import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.goldens.fill import HERE, fill, images
from tests.test_goldens import SOURCES, tap_figures

if TYPE_CHECKING:
    import keras
    import torch

Arrays = dict[str, np.ndarray]

# What has to be installed beside this package and its tests. facenet-pytorch asks for
# an old torch but runs with new ones, hence --no-deps.
NEEDS = {
    "timm_inception_v4": "torch timm",
    "timm_inception_resnet_v2": "torch timm",
    "facenet_pytorch_inception_resnet_v1": "torch torchvision requests tqdm, and with "
    "--no-deps facenet-pytorch",
    "keras_inception_resnet_v2": "keras",
}

# Stages by the names of the files; "repeat.{}*10" stands for repeat.0 to repeat.9.
RESNET_V2_STAGES = (
    "conv2d_1a conv2d_2a conv2d_2b maxpool_3a conv2d_3b conv2d_4a maxpool_5a mixed_5b "
    "repeat.{}*10 mixed_6a repeat_1.{}*20 mixed_7a repeat_2.{}*9 block8 conv2d_7b "
    "global_pool"
)
STAGES = {
    "timm_inception_v4": "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Mixed_3a Mixed_4a "
    "Mixed_5a Mixed_5b Mixed_5c Mixed_5d Mixed_5e Mixed_6a Mixed_6b Mixed_6c Mixed_6d "
    "Mixed_6e Mixed_6f Mixed_6g Mixed_6h Mixed_7a Mixed_7b Mixed_7c Mixed_7d "
    "global_pool",
    "timm_inception_resnet_v2": RESNET_V2_STAGES,
    "facenet_pytorch_inception_resnet_v1": "conv2d_1a conv2d_2a conv2d_2b maxpool_3a "
    "conv2d_3b conv2d_4a conv2d_4b repeat_1.{}*5 mixed_6a repeat_2.{}*10 mixed_7a "
    "repeat_3.{}*5 block8 avgpool_1a last_linear last_bn",
    "keras_inception_resnet_v2": RESNET_V2_STAGES,
}
# The modules or layers that end these stages, where the source names them otherwise.
ENDS = {
    "timm_inception_v4": "features.{}*22 global_pool",
    "keras_inception_resnet_v2": "activation activation_1 activation_2 max_pooling2d "
    "activation_3 activation_4 max_pooling2d_1 mixed_5b block35_{}_ac*10 mixed_6a "
    "block17_{}_ac*20 mixed_7a block8_{}_ac*9 custom_scale_layer_39 conv_7b_ac "
    "avg_pool",
}

# Layers of which the file keeps moving averages: an early, a middle and a late one.
TRAIN_BN = {
    "timm_inception_v4": "features.0.bn features.14.branch1.0.bn features.21.branch3.1.bn",
    "timm_inception_resnet_v2": "conv2d_1a.bn repeat_1.6.branch1.1.bn conv2d_7b.bn",
    "facenet_pytorch_inception_resnet_v1": "conv2d_1a.bn repeat_2.4.branch0.bn last_bn",
}

# What `--check` allows; outputs in float32 get the larger tolerance of the tests.
FLOAT64_TOLERANCE = 1e-9


def kind_of(name: str, rank: int) -> str:
    """The `kind` that `fill` takes, from the name in torch or Keras and the rank."""
    if name.endswith(("running_var", "moving_variance")):
        return "variance"
    if rank == 4:
        ends_block = name.endswith((".conv2d.weight", "_conv/kernel"))
        return "linear" if ends_block else "conv"
    if rank == 2:
        return "classifier"
    return "gamma" if name.endswith((".weight", "/gamma")) else "small"


def expand(names: str, first: int = 0) -> list[str]:
    """The single names that a string of them stands for."""
    parts = [name.partition("*") for name in names.split()]
    counted = [(name, int(count or 1)) for name, _, count in parts]
    return [name.format(first + i) for name, n in counted for i in range(n)]


def ends(source: str) -> list[tuple[str, str]]:
    """Every stage, and the name that the source gives to its end."""
    stages, names = STAGES[source], ENDS.get(source, STAGES[source])
    first = 1 if source.startswith("keras") else 0
    return list(zip(expand(stages), expand(names, first), strict=True))


def tap_arrays(stage: str, x: np.ndarray) -> Arrays:
    """What the file keeps of a stage's output [2, height, width, channels]."""
    stats, probe = tap_figures(x)
    figures = {"shape": np.array(x.shape), "stats": stats, "probe": probe}
    return {f"tap/{stage}/{key}": value for key, value in figures.items()}


def torch_model(source: str) -> "torch.nn.Module":
    """The model with all its arrays filled."""
    import torch

    if source.startswith("facenet"):
        from facenet_pytorch import InceptionResnetV1

        model = InceptionResnetV1(pretrained=None, dropout_prob=0.0)
    else:
        import timm

        name = source.removeprefix("timm_")
        model = timm.create_model(name, pretrained=False, drop_rate=0.0)
    for name, array in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            kind = kind_of(name, array.ndim)
            filled = fill(source, name, tuple(array.shape), kind=kind, out_axis=0)
            array.copy_(torch.from_numpy(filled))
    return model


def torch_outputs(model: "torch.nn.Module", size: int) -> np.ndarray:
    """The model's outputs for the two images, in the precision of its weights."""
    import torch

    x = torch.from_numpy(images(size)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return model(x.to(next(model.parameters()).dtype)).numpy()


def torch_arrays(source: str) -> Arrays:
    model = torch_model(source)
    size = SOURCES[source][2]
    arrays = {}
    for pixels in (size, 75):
        arrays[f"logits_{pixels}_f32"] = torch_outputs(model.eval(), pixels)
    arrays["logits_75"] = torch_outputs(model.double(), 75)

    def keep(stage: str, module: "torch.nn.Module", _, x: "torch.Tensor") -> None:
        if not module.training:  # the later pass in training mode is not for the taps
            arrays.update(tap_arrays(stage, x.movedim(1, -1).numpy()))

    for stage, end in ends(source):
        model.get_submodule(end).register_forward_hook(partial(keep, stage))
    arrays[f"logits_{size}"] = torch_outputs(model, size)
    arrays[f"train_logits_{size}"] = torch_outputs(model.train(), size)
    for bn in TRAIN_BN[source].split():
        for key in ("running_mean", "running_var"):
            values = model.get_submodule(bn).get_buffer(key)
            arrays[f"train_bn/{bn}/{key}"] = values[:16].numpy()
    return arrays


def keras_model(source: str, dtype: str) -> "keras.Model":
    """The filled model in `dtype`, with layer names that count from the start."""
    import keras

    keras.config.set_floatx(dtype)
    keras.utils.clear_session()
    network = keras.applications.InceptionResNetV2
    model = network(weights=None, classifier_activation=None)
    for variable in model.variables:
        name, shape = variable.path, tuple(variable.shape)
        variable.assign(fill(source, name, shape, kind=kind_of(name, len(shape))))
    return model


def keras_arrays(source: str) -> Arrays:
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras
    from keras.src.backend.common import dtypes

    jax.config.update("jax_platforms", "cpu")
    x = images(299)
    arrays = {"logits_299_f32": np.asarray(keras_model(source, "float32")(x))}
    jax.config.update("jax_enable_x64", True)
    # Without this, only TensorFlow keeps Keras's batch normalisation in float64.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    model = keras_model(source, "float64")
    outputs = {"logits": model.output}
    outputs |= {stage: model.get_layer(end).output for stage, end in ends(source)}
    outputs = keras.Model(model.input, outputs)(x.astype(np.float64))
    arrays["logits_299"] = np.asarray(outputs.pop("logits"))
    for stage, output in outputs.items():
        arrays |= tap_arrays(stage, np.asarray(output))
    return arrays


def agrees(source: str, arrays: Arrays) -> bool:
    """Prints the largest difference for each kind of key; whether all are allowed."""
    with np.load(HERE / f"{source}.npz", allow_pickle=False) as file:
        committed = dict(file)
    good = arrays.keys() == committed.keys()
    if not good:
        print("only in one of the two:", *sorted(arrays.keys() ^ committed.keys()))
    differences = defaultdict(list)
    for key in arrays.keys() & committed.keys():
        new, old = arrays[key], committed[key]
        alike = new.shape == old.shape and new.dtype == old.dtype
        kind = re.sub("/.*/", "/*/", key)
        differences[kind].append(np.abs(new - old).max() if alike else np.inf)
    for kind, values in sorted(differences.items()):
        allowed = SOURCES[source][3] if kind.endswith("_f32") else FLOAT64_TOLERANCE
        largest = np.max(values)
        good = good and bool(largest <= allowed)  # not so for NaN
        print(f"{kind:24} {largest:8.1e}  (allowed: {allowed:.0e})")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes one golden file again.")
    parser.add_argument("source", choices=NEEDS)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the new file")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    source = options.source
    try:
        arrays = (keras_arrays if source.startswith("keras") else torch_arrays)(source)
    except ImportError as error:
        sys.exit(f"{error}. This source needs pip install {NEEDS[source]}.")
    if options.check:
        sys.exit(not agrees(source, arrays))
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out / f"{source}.npz", **arrays)


if __name__ == "__main__":
    main()
