# SPDX-License-Identifier: Apache-2.0
"""The size of ImageNet's 2012 challenge and the names of its classes.

imagenet_classes.tsv holds the WordNet id and the title (the WordNet lemmas) of each class,
in the order of TFDS's labels (datasets/imagenet2012/labels.txt), which is the order of the
ids. Both columns are from timm 1.0.31 (timm/data/_info: imagenet_synsets.txt and
imagenet_synset_to_lemma.txt; Apache-2.0).
"""

import functools
from pathlib import Path

# arXiv 1409.0575, Table 2.
NUM_TRAIN_IMAGES = 1_281_167
NUM_VALIDATION_IMAGES = 50_000
NUM_CLASSES = 1000


def imagenet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of the classes by label; TFDS uses them as class names."""
    return tuple(_titles())


def class_title(name: str) -> str:
    """Return the title of an ImageNet class, such as "tench, Tinca tinca" for n01440764.

    Any other name is returned unchanged. Titles are not unique: a bird and a machine are
    both called "crane".
    """
    return _titles().get(name, name)


@functools.cache
def _titles() -> dict[str, str]:
    text = Path(__file__).with_name("imagenet_classes.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())
