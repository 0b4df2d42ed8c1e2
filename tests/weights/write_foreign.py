# SPDX-License-Identifier: Apache-2.0
"""Write files with Keras and TensorFlow themselves, in a separate process.

    python -m tests.weights.write_foreign keras_inception_v3 FOLDER
    python -m tests.weights.write_foreign tensorflow FOLDER

The first fills the model as tests/goldens/regenerate.py does and writes it in every format;
the second writes the arrays of FOLDER/arrays.npz, which have TensorFlow's names.
"""

import os
import sys
from pathlib import Path

import numpy as np


def keras_files(source: str, folder: Path) -> None:
    """Write model.h5, weights_only.h5 (with higher numbers), x.weights.h5 and x.keras."""
    os.environ["KERAS_BACKEND"] = "jax"
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    from tests.goldens.regenerate import keras_model

    model = keras_model(source, "float32", 299)
    model.compile("adam")
    model.save(folder / "model.h5")
    model.save_weights(folder / "x.weights.h5")
    model.save(folder / "x.keras")
    # A second model has higher numbers, as in the published file.
    network = getattr(keras.applications, type_of(source))
    second = network(weights=None, input_shape=(75, 75, 3))
    second.set_weights(model.get_weights())
    assert "conv2d" not in [layer.name for layer in second.layers]
    with h5py.File(folder / "weights_only.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, second)


def type_of(source: str) -> str:
    return {
        "keras_inception_v3": "InceptionV3",
        "keras_inception_resnet_v2": "InceptionResNetV2",
    }[source]


def tensorflow_files(folder: Path) -> None:
    """Write v1.ckpt, a single file, and v2.ckpt, in parts, with slim's Saver."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    v1 = tf.compat.v1
    with (
        np.load(folder / "arrays.npz", allow_pickle=False) as file,
        tf.Graph().as_default(),
    ):
        variables, feeds = [], {}
        for name in file.files:  # fed, because a graph is limited to 2 GB
            x = file[name]
            value = v1.placeholder(x.dtype, x.shape)
            variables.append(v1.get_variable(name, initializer=value))
            feeds[value] = x
        step = v1.train.get_or_create_global_step()
        with v1.Session() as session:
            initialise = v1.variables_initializer([*variables, step])
            session.run(initialise, feeds)
            for version in ("V1", "V2"):
                kind = getattr(v1.train.SaverDef, version)
                saver = v1.train.Saver([*variables, step], write_version=kind)
                path = folder / f"{version.lower()}.ckpt"
                saver.save(session, str(path), write_meta_graph=False)


if __name__ == "__main__":
    kind, out = sys.argv[1], Path(sys.argv[2])
    tensorflow_files(out) if kind == "tensorflow" else keras_files(kind, out)
