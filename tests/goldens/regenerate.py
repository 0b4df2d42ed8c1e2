# SPDX-License-Identifier: Apache-2.0
"""Regenerate the goldens by running the networks of other libraries.

    python -m tests.goldens.regenerate timm_inception_v4 [--out DIR] [--check]

The source's model gets the weights of fill.py and its two images. Keys of a file:

- `logits_<size>`, `logits_<size>_f32`: the outputs in float64 and in float32;
- `tap/<stage>/shape`, `stats`, `probe`: shape (NHWC) and `tap_figures` of every stage,
  from the float64 run at the native size;
- `train_logits_<size>`, `train_bn/<layer>/running_mean`, `running_var`: one forward
  pass in training mode, in float64 and without dropout, and the first 16 moving
  averages after it; not for Keras;
- `padding_counted/logits_<size>`, only for timm_inception_v3: timm's Inception-v3 counts
  the zeros of the padding in its 3x3 average pools; TensorFlow, and hence slim and Keras,
  does not. These are the outputs of timm unchanged, in float64; for all other arrays
  `leave_padding_out` changes that one argument of the pools.

The file replaces the committed one or is written to DIR. With `--check` nothing is written:
the new arrays are compared with the committed file; the exit status is 1 if they differ.
Nothing is downloaded. torch 2.14.1, torchvision 0.29.1, timm 1.0.31, facenet-pytorch
2.6.0 and keras 3.15.1 on jax 0.10.2 gave the committed files.
"""

import argparse
import os
import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from tests.goldens.fill import HERE, fill, images
from tests.goldens.stages import TRAIN_BN, ends
from tests.models.test_goldens import SOURCES, tap_figures

if TYPE_CHECKING:
    import keras
    import torch

Arrays = dict[str, np.ndarray]

# Packages to install besides this package and its tests. facenet-pytorch requires an old
# torch but runs with new ones, hence --no-deps.
NEEDS = {
    "timm_inception_v3": "torch timm",
    "timm_inception_v4": "torch timm",
    "timm_inception_resnet_v2": "torch timm",
    "facenet_pytorch_inception_resnet_v1": "torch torchvision requests tqdm, and with "
    "--no-deps facenet-pytorch",
    "keras_inception_v3": "keras",
    "keras_inception_resnet_v2": "keras",
}

# Tolerance of `--check`; outputs in float32 get the larger tolerance of the tests.
FLOAT64_TOLERANCE = 1e-9


def kind_of(name: str, rank: int) -> str:
    """Return the `kind` that `fill` takes, from the name in torch or Keras and the rank."""
    if name.endswith(("running_var", "moving_variance")):
        return "variance"
    if rank == 4:
        ends_block = name.endswith((".conv2d.weight", "_conv/kernel"))
        return "linear" if ends_block else "conv"
    if rank == 2:
        return "classifier"
    return "gamma" if name.endswith((".weight", "/gamma")) else "small"


def tap_arrays(stage: str, x: np.ndarray) -> Arrays:
    """Return the arrays that the file keeps of an output [2, height, width, channels]."""
    stats, probe = tap_figures(x)
    figures = {"shape": np.array(x.shape), "stats": stats, "probe": probe}
    return {f"tap/{stage}/{key}": value for key, value in figures.items()}


def torch_model(source: str) -> "torch.nn.Module":
    """Return the model with all its arrays filled."""
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
    """Return the model's outputs for the two images, in the precision of its weights."""
    import torch

    x = torch.from_numpy(images(size)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return model(x.to(next(model.parameters()).dtype)).numpy()


def leave_padding_out(model: "torch.nn.Module") -> None:
    """Make the average pools of timm's Inception-v3 those of TensorFlow."""
    module = sys.modules[type(model).__module__]
    functional = module.F  # torch.nn.functional; only this module gets another pool
    module.F = SimpleNamespace(
        avg_pool2d=partial(functional.avg_pool2d, count_include_pad=False),
        max_pool2d=functional.max_pool2d,
    )


def torch_arrays(source: str) -> Arrays:
    model = torch_model(source).eval()
    size = SOURCES[source][2]
    arrays = {}
    if source == "timm_inception_v3":
        for pixels in (size, 75):
            outputs = torch_outputs(model.double(), pixels)
            arrays[f"padding_counted/logits_{pixels}"] = outputs
        leave_padding_out(model)
    for pixels in (size, 75):
        arrays[f"logits_{pixels}_f32"] = torch_outputs(model.float(), pixels)
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


def keras_model(source: str, dtype: str, size: int) -> "keras.Model":
    """Return the filled model in `dtype`, with layer names that count from the start."""
    import keras

    keras.config.set_floatx(dtype)
    keras.utils.clear_session()
    network = {
        "keras_inception_v3": keras.applications.InceptionV3,
        "keras_inception_resnet_v2": keras.applications.InceptionResNetV2,
    }[source]
    options = {"weights": None, "classifier_activation": None}
    model = network(input_shape=(size, size, 3), **options)
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
    arrays = {}
    for pixels in (299, 75):
        outputs = keras_model(source, "float32", pixels)(images(pixels))
        arrays[f"logits_{pixels}_f32"] = np.asarray(outputs)
    jax.config.update("jax_enable_x64", True)
    # Without this, only TensorFlow keeps Keras's batch normalisation in float64.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    outputs = keras_model(source, "float64", 75)(images(75).astype(np.float64))
    arrays["logits_75"] = np.asarray(outputs)
    model = keras_model(source, "float64", 299)
    outputs = {"logits": model.output}
    outputs |= {stage: model.get_layer(end).output for stage, end in ends(source)}
    outputs = keras.Model(model.input, outputs)(images(299).astype(np.float64))
    arrays["logits_299"] = np.asarray(outputs.pop("logits"))
    for stage, output in outputs.items():
        arrays |= tap_arrays(stage, np.asarray(output))
    return arrays


def agrees(source: str, arrays: Arrays) -> bool:
    """Print the largest difference of each kind of key; return whether all are allowed."""
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
        print(f"{kind:26} {largest:8.1e}  (allowed: {allowed:.0e})")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description="Regenerate one golden file.")
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
