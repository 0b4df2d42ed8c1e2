# SPDX-License-Identifier: Apache-2.0
"""`open_source`, which opens a data set of any kind by its name."""

from inception_jax.data.digits import open_digits
from inception_jax.data.folder import open_folder
from inception_jax.data.source import Source
from inception_jax.data.synthetic import open_synthetic
from inception_jax.data.tfds import open_tfds


def open_source(name: str, split: str, data_dir: str | None = None) -> Source:
    """Open a split of a data set; examples are read one by one, on access.

    Args:
      name: a prepared data set of TFDS, such as `imagenet2012`; `folder:DIR` (see
        `open_folder`); `digits`, prepared on first use (see `open_digits`); or `synthetic`
        (see `open_synthetic`).
      split: `train`, `eval`, or a part of one in TFDS's notation, such as `train[:100]`.
      data_dir: folder of TFDS's data sets; default: `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.

    Raises ValueError if the name or split is unknown or the data set cannot be used, and
    ImportError without the `data` extra.
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
