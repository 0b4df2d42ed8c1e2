# SPDX-License-Identifier: Apache-2.0
"""Data sets prepared by tensorflow-datasets (TFDS), read without TensorFlow."""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inception_jax.data.optional import require
from inception_jax.data.source import Example, Source

if TYPE_CHECKING:
    import tensorflow_datasets


def open_tfds(name: str, split: str, data_dir: str | None) -> Source:
    """Open a prepared data set of TFDS, such as `imagenet2012` or `cifar10`.

    `eval` is the first of its splits `eval`, `validation` and `test` that exists. Images
    are not decoded yet. Nothing is downloaded and the network is not used.

    Raises ValueError if the name is unknown, or if the data set is not prepared, is not in
    ArrayRecord format or has no images with labels; the message says what to do.
    """
    tfds = require("tensorflow_datasets")
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    # ValueError: TFDS cannot parse the name; its own message is a page long.
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as e:
        raise ValueError(not_found_message(name, data_dir)) from e
    info = builder.info
    if info.file_format != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{name!r} is prepared in {builder.data_dir} as {info.file_format.value}; "
            "expected array_record, which has random access; to see how to prepare it "
            f"again, run inception-jax data check {name}"
        )
    image, label = _image_and_label_keys(name, info)
    data = read_split(builder, split, decoders={image: tfds.decode.SkipDecoding()})
    examples = TFDSExamples(data, name, split, image, label)
    return Source(name, split, tuple(info.features[label].names), examples)


@dataclass(frozen=True)
class TFDSExamples(Sequence[Example]):
    """Records of TFDS as examples; `image` and `label` are the keys of the records."""

    data: Sequence[dict[str, Any]]
    source: str
    split: str
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        index = range(len(self))[index]  # raises IndexError, which TFDS does not
        record = self.data[index]
        name = record.get("file_name", record.get("id", b""))
        name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        return {
            "image": record[self.image],
            "label": int(record[self.label]),
            "name": name or f"{self.source} {self.split} #{index}",
        }


def read_split(
    builder: "tensorflow_datasets.core.DatasetBuilder",
    split: str,
    decoders: dict[str, Any] | None = None,
) -> Sequence[dict[str, Any]]:
    """Return the records of a split or of a part of it.

    `eval` is the first of the splits `eval`, `validation` and `test` that exists. Raises
    ValueError if the split is unknown or empty.
    """
    splits, tfds_split = list(builder.info.splits), split
    eval_splits = [name for name in ("eval", "validation", "test") if name in splits]
    if eval_splits:
        tfds_split = re.sub(r"\beval\b", eval_splits[0], split)
    try:
        return builder.as_data_source(tfds_split, decoders=decoders)
    except ValueError as e:
        raise ValueError(
            f"unknown or empty split {split!r} of {builder.name!r}; expected "
            f"{', '.join(splits)} or a part such as '{splits[0]}[:100]' or "
            f"'{splits[0]}[90%:]'."
        ) from e


def not_found_message(name: str, data_dir: str | None) -> str:
    """Return the error message for a name under which no data set is prepared."""
    tfds = require("tensorflow_datasets")
    tfds_names = tfds.list_builders(with_community_datasets=False)
    base = re.split("[/:]", name)[0]
    if base in tfds_names:
        folder = data_dir or tfds.core.constants.DATA_DIR
        return (
            f"{name!r} is not prepared in {folder}; to see what is missing and how to "
            f"prepare it, run inception-jax data check {name}"
        )
    candidates = ["digits", "folder", "synthetic", *tfds_names]
    # difflib misses completions that are much longer: imagenet2012 for imagenet.
    completions = [c for c in sorted(candidates) if base and c.startswith(base)][:2]
    close = difflib.get_close_matches(base, candidates, n=3)
    suggestions = " or ".join(map(repr, dict.fromkeys(completions + close)))
    hint = f"; did you mean {suggestions}?" if suggestions else "."
    return (
        f"unknown source {name!r}; expected digits, synthetic, folder:DIR or the name of a "
        f"data set of TFDS{hint}"
    )


def _image_and_label_keys(
    name: str, info: "tensorflow_datasets.core.DatasetInfo"
) -> tuple[str, str]:
    tfds_features = require("tensorflow_datasets").features
    image, label = (info.supervised_keys or ("image", "label"))[:2]
    features = dict(info.features)
    if not (
        isinstance(features.get(image), tfds_features.Image)
        and isinstance(features.get(label), tfds_features.ClassLabel)
    ):
        raise ValueError(
            f"{name!r} is not a data set of images with one class label each; its features "
            f"are {', '.join(features)}."
        )
    return image, label
