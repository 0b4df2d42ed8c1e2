# SPDX-License-Identifier: Apache-2.0
"""Where examples come from: one function opens them all."""

from inception_jax.data.digits import open_digits
from inception_jax.data.folder import open_folder
from inception_jax.data.synthetic import open_synthetic
from inception_jax.data.tfds import open_tfds
from inception_jax.data.types import Source


def open_source(name: str, split: str, data_dir: str | None = None) -> Source:
    """Examples of a data set; the files stay where they are and are read one by one.

    Args:
      name: a data set of TFDS, such as `imagenet2012`, that is prepared; `folder:DIR`, see
        `open_folder`; `digits`, scikit-learn's, prepared here on first use; `synthetic`,
        see `open_synthetic`.
      split: `train`, `eval`, or a part of one in TFDS's notation, such as `train[:100]`.
      data_dir: folder of prepared data sets. Default: TFDS's, which is `$TFDS_DATA_DIR`
        or `~/tensorflow_datasets`.

    Raises ValueError on an unknown name or split and on data that does not fit, ImportError
    without the `data` extra.
    """
    kind, _, rest = name.partition(":")
    if kind == "folder":
        if not rest:
            raise ValueError(f"{name!r} names no folder; expected folder:DIR.")
        return open_folder(rest, split)
    if name == "digits":
        return open_digits(split, data_dir)
    if kind == "synthetic":
        return open_synthetic(name, split)
    return open_tfds(name, split, data_dir)
