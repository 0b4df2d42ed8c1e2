# SPDX-License-Identifier: Apache-2.0
"""Results that the paper reports, from the tables and figures of arXiv 1602.07261v2."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of a table: errors on the validation set of ILSVRC 2012, in percent."""

    label: str  # as the paper prints it
    networks: tuple[str, ...]  # names in this project; () if it lacks the network
    top1: float | None
    top5: float


class Table(NamedTuple):
    """One of Tables 2 to 5."""

    title: str
    views: int  # crops per image
    excludes: bool  # about 1,700 images ("the non-blacklisted subset")
    rows: tuple[Row, ...]


V3, V4 = ("inception_v3",), ("inception_v4",)
RESNET_V1, RESNET_V2 = ("inception_resnet_v1",), ("inception_resnet_v2",)

TABLES = {
    2: Table(
        "single crop, single model, non-blacklisted subset",
        1,
        True,
        (
            Row("BN-Inception", (), 25.2, 7.8),
            Row("Inception-v3", V3, 21.2, 5.6),
            Row("Inception-ResNet-v1", RESNET_V1, 21.3, 5.5),
            Row("Inception-v4", V4, 20.0, 5.0),
            Row("Inception-ResNet-v2", RESNET_V2, 19.9, 4.9),
        ),
    ),
    3: Table(
        "12 crops (ResNet: 10), single model, all 50,000",
        12,
        False,
        (
            Row("ResNet-151", (), 21.4, 5.7),
            Row("Inception-v3", V3, 19.8, 4.6),
            Row("Inception-ResNet-v1", RESNET_V1, 19.8, 4.6),
            Row("Inception-v4", V4, 18.7, 4.2),
            Row("Inception-ResNet-v2", RESNET_V2, 18.7, 4.1),
        ),
    ),
    4: Table(
        "144 crops (ResNet: dense), single model, all 50,000",
        144,
        False,
        (
            Row("ResNet-151", (), 19.4, 4.5),
            Row("Inception-v3", V3, 18.9, 4.3),
            Row("Inception-ResNet-v1", RESNET_V1, 18.8, 4.3),
            Row("Inception-v4", V4, 17.7, 3.8),
            Row("Inception-ResNet-v2", RESNET_V2, 17.8, 3.7),
        ),
    ),
    5: Table(
        "ensembles, 144 crops (ResNet: dense), all 50,000",
        144,
        False,
        (
            Row("ResNet-151 x6", (), None, 3.6),
            Row("Inception-v3 x4", V3 * 4, 17.3, 3.6),
            Row("Inception-v4 + 3 x Inception-ResNet-v2", V4 + RESNET_V2 * 3, 16.5, 3.1),
        ),
    ),
}


class Curves(NamedTuple):
    """One of Figs 21 to 26: error over epochs, single crop, non-blacklisted subset."""

    title: str
    metric: str  # "top1" or "top5"
    networks: tuple[str, ...]


CURVES = {
    21: Curves("Top-1 error: Inception-v3, Inception-ResNet-v1", "top1", V3 + RESNET_V1),
    22: Curves("Top-5 error: Inception-v3, Inception-ResNet-v1", "top5", V3 + RESNET_V1),
    23: Curves("Top-1 error: Inception-v4, Inception-ResNet-v2", "top1", V4 + RESNET_V2),
    24: Curves("Top-5 error: Inception-v4, Inception-ResNet-v2", "top5", V4 + RESNET_V2),
    25: Curves("Top-5 error of all four", "top5", V3 + RESNET_V1 + V4 + RESNET_V2),
    26: Curves("Top-1 error of all four", "top1", V3 + RESNET_V1 + V4 + RESNET_V2),
}
