# SPDX-License-Identifier: Apache-2.0
"""Data sets that tensorflow-datasets has prepared, read without TensorFlow."""

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
    """Examples of a prepared data set of TFDS, such as `imagenet2012` or `cifar10`.

    `eval` is its split `validation` or, where there is none, `test`. Images stay encoded
    until they are asked for. Nothing is downloaded, and nothing but the folder is asked.

    Raises ValueError, saying what to do, on an unknown name, on a data set that is not
    prepared or not in ArrayRecord files, or that holds no images with labels.
    """
    tfds = require("tensorflow_datasets")
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    # ValueError: TFDS cannot parse the name; its own message is a page.
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as e:
        raise ValueError(not_found_message(name, data_dir)) from e
    info = builder.info
    if info.file_format != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{name!r} is prepared in {builder.data_dir} as {info.file_format.value}; "
            "expected array_record, which has random access; for the next command: "
            f"inception-jax data check {name}"
        )
    image, label = _keys(name, info)
    data = read_split(builder, split, decoders={image: tfds.decode.SkipDecoding()})
    examples = TFDSExamples(data, name, split, image, label)
    return Source(name, split, tuple(info.features[label].names), examples)


@dataclass(frozen=True)
class TFDSExamples(Sequence[Example]):
    """Records of TFDS under our keys; `image` and `label` are TFDS's."""

    data: Sequence[dict[str, Any]]
    source: str
    split: str
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]  # raises IndexError; TFDS's data do not
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
    """Records of a split or a part of it; `eval` stands for `validation`, else `test`.

    Raises ValueError where there is no such split and where it is empty.
    """
    there = list(builder.info.splits)
    held_out = [name for name in ("validation", "test") if name in there]
    if held_out and "eval" not in there:
        part = re.sub(r"\beval\b", held_out[0], split)
    else:
        part = split
    try:
        return builder.as_data_source(part, decoders=decoders)
    except ValueError as e:
        raise ValueError(
            f"unknown or empty split {split!r} of {builder.name!r}; there are "
            f"{' and '.join(there)}, and parts of them such as '{there[0]}[:100]' or "
            f"'{there[0]}[90%:]'."
        ) from e


def not_found_message(name: str, data_dir: str | None) -> str:
    """What to tell about a name under which nothing is prepared."""
    tfds = require("tensorflow_datasets")
    known = tfds.list_builders(with_community_datasets=False)
    base = re.split("[/:]", name)[0]
    if base in known:
        folder = data_dir or tfds.core.constants.DATA_DIR
        return (
            f"{name!r} is not prepared in {folder}; for what is missing and the next "
            f"command: inception-jax data check {name}"
        )
    candidates = ["digits", "folder", "synthetic", *known]
    # The longer names too, which count as less close: imagenet2012 for imagenet.
    longer = sorted(each for each in candidates if base and each.startswith(base))[:2]
    close = difflib.get_close_matches(base, candidates, n=3)
    names = " or ".join(map(repr, dict.fromkeys(longer + close)))
    meant = f"; did you mean {names}?" if names else "."
    return (
        f"unknown source {name!r}; expected digits, synthetic, folder:DIR or the name of a "
        f"data set of TFDS{meant}"
    )


def _keys(name: str, info: "tensorflow_datasets.core.DatasetInfo") -> tuple[str, str]:
    """TFDS's keys of the image and of its label."""
    features = require("tensorflow_datasets").features
    image, label = (info.supervised_keys or ("image", "label"))[:2]
    there = dict(info.features)
    if not (
        isinstance(there.get(image), features.Image)
        and isinstance(there.get(label), features.ClassLabel)
    ):
        raise ValueError(
            f"{name!r} is no data set of images with one class each; its features are "
            f"{', '.join(there)}."
        )
    return image, label
