# SPDX-License-Identifier: Apache-2.0
"""What ImageNet's 1000 classes are called.

imagenet_names.tsv holds WordNet's id and name (its lemmas) of each, in the order of TFDS's
labels (datasets/imagenet2012/labels.txt), which is that of the ids. Both columns are from
timm 1.0.31 (timm/data/_info: imagenet_synsets.txt, imagenet_synset_to_lemma.txt;
Apache-2.0).
"""

import functools
from pathlib import Path


def imagenet_ids() -> tuple[str, ...]:
    """The classes as TFDS calls them, such as n01440764, by label."""
    return tuple(_titles())


def class_title(name: str) -> str:
    """What people call a class: "tench, Tinca tinca" for n01440764, `name` itself for all
    that are not ImageNet's.

    Two classes can share a title: a bird and a machine are both "crane".
    """
    return _titles().get(name, name)


@functools.cache
def _titles() -> dict[str, str]:
    text = Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())
