# SPDX-License-Identifier: Apache-2.0
"""The table of networks: each network is one entry of `SPECS`."""

import difflib
from functools import partial

from inception_jax.models.inception_a import FIG_10, FIG_16, InceptionA, InceptionResNetA
from inception_jax.models.inception_b import FIG_11, FIG_17, InceptionB, InceptionResNetB
from inception_jax.models.inception_c import (
    FIG_13,
    FIG_19,
    InceptionC,
    InceptionResNetC,
    published_last,
)
from inception_jax.models.inception_v3 import INCEPTION_V3_STAGES
from inception_jax.models.reduction_a import TABLE_1, ReductionA
from inception_jax.models.reduction_b import (
    FIG_12,
    FIG_18,
    InceptionResNetReductionB,
    ReductionB,
)
from inception_jax.models.small_images import small_image_spec
from inception_jax.models.spec import (
    HE,
    SCALE_A,
    SCALE_B,
    SCALE_C,
    NetworkSpec,
    Stage,
    numbered,
    residual_stage,
)
from inception_jax.models.stem import (
    InceptionResNetV1Stem,
    InceptionV3Stem,
    InceptionV4Stem,
    PublishedInceptionResNetV2Stem,
)


def _lettered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(prefix + letter for letter in "bcdefgh"[:count])


def _reduction_a(network: str) -> Stage:
    module = partial(ReductionA, *TABLE_1[network])
    return Stage("Reduction-A", module, ("Mixed_6a",), "Fig. 7, Table 1")


# Figures of Inception-ResNet-A, -B, Reduction-B and -C in the two versions.
FIGURES = {
    "v1": ((10, FIG_10), (11, FIG_11), (12, FIG_12), (13, FIG_13)),
    "v2": ((16, FIG_16), (17, FIG_17), (18, FIG_18), (19, FIG_19)),
}


def _residual_stages(version: str, counts: tuple[int, int, int]) -> tuple[Stage, ...]:
    """Return the stages of version "v1" or "v2" with this many A, B and C blocks."""
    (a, fig_a), (b, fig_b), (reduction, fig_reduction), (c, fig_c) = FIGURES[version]
    names = [
        numbered(prefix, count)
        for prefix, count in zip(("block35", "block17", "block8"), counts, strict=True)
    ]
    reduction_b = partial(InceptionResNetReductionB, branches=fig_reduction)
    return (
        residual_stage("A", InceptionResNetA, fig_a, f"Fig. {a}", names[0], SCALE_A),
        _reduction_a(f"inception_resnet_{version}"),
        residual_stage("B", InceptionResNetB, fig_b, f"Fig. {b}", names[1], SCALE_B),
        Stage("Reduction-B", reduction_b, ("Mixed_7a",), f"Fig. {reduction}"),
        residual_stage("C", InceptionResNetC, fig_c, f"Fig. {c}", names[2], SCALE_C),
    )


SPECS: dict[str, NetworkSpec] = {
    # The baseline of Tables 2 to 5. (slim initialises the last two layers of its auxiliary
    # head with stddev 0.01 and 0.001; here they are initialised like all others.)
    "inception_v3": NetworkSpec(
        stem=InceptionV3Stem,
        stem_figure="like Fig. 14",
        stages=INCEPTION_V3_STAGES,
        figure="like 1512.00567, Table 1",
        source="slim/nets/inception_v3.py",
        kernel_init=HE,
    ),
    "inception_v4": NetworkSpec(
        stem=InceptionV4Stem,
        stem_figure="Fig. 3",
        stages=(
            Stage("A", InceptionA, _lettered("Mixed_5", 4), "Fig. 4"),
            _reduction_a("inception_v4"),
            Stage("B", InceptionB, _lettered("Mixed_6", 7), "Fig. 5"),
            Stage("Reduction-B", ReductionB, ("Mixed_7a",), "Fig. 8"),
            Stage("C", InceptionC, _lettered("Mixed_7", 3), "Fig. 6"),
        ),
        figure="Fig. 9",
        source="Fig. 9; slim/nets/inception_v4.py",
        kernel_init=HE,
    ),
    "inception_resnet_v1": NetworkSpec(
        stem=InceptionResNetV1Stem,
        stem_figure="Fig. 14",
        stages=_residual_stages("v1", (5, 10, 5)),
        figure="Fig. 15",
        source="Fig. 15 with the parts of Figs 10 to 14",
    ),
    # The network of slim, Keras, timm and every published weight file. It differs
    # from the drawing: another stem, twice the blocks, a last block with scale 1 and no
    # ReLU, and Conv2d_7b. slim's author: "done under the advise of the authors of the
    # paper".
    "inception_resnet_v2": NetworkSpec(
        stem=PublishedInceptionResNetV2Stem,
        stem_figure="like Fig. 14",
        stages=(*_residual_stages("v2", (10, 20, 9)), published_last(FIG_19)),
        final_conv=1536,
        figure="like Fig. 15",
        source="slim/nets/inception_resnet_v2.py",
    ),
    # Fig. 15 gives block counts for v1 ("the sizes ... for Inception-ResNet-v1"), so 5/10/5
    # is the literal reading. At 9.3 GMACs it does not "match the raw cost" of Inception-v4
    # (12.3), as the text says v2 does. See FIG_17 and FIG_19 for the widths.
    "inception_resnet_v2_paper": NetworkSpec(
        stem=InceptionV4Stem,
        stem_figure="Fig. 3",
        stages=_residual_stages("v2", (5, 10, 5)),
        figure="Fig. 15",
        source="Fig. 15 with the parts of Figs 3 and 16 to 19",
    ),
    "inception_resnet_v1_facenet": NetworkSpec(
        stem=InceptionResNetV1Stem,
        stem_figure="Fig. 14",
        stages=(*_residual_stages("v1", (5, 10, 5)), published_last(FIG_13)),
        figure="like Fig. 15",
        source="davidsandberg/facenet, timesler/facenet-pytorch",
        image_shape=(160, 160, 3),
        num_classes=0,
        embedding=512,
        dropout_rate=0.6,  # facenet-pytorch: dropout_prob=0.6
        bn_decay=0.995,  # facenet: batch_norm_params decay
    ),
    "inception_resnet_small": small_image_spec(),
}


def list_networks() -> list[str]:
    """Return the names of all networks of the zoo."""
    return list(SPECS)


def get_spec(name: str) -> NetworkSpec:
    """Return the spec called `name`; ValueError suggests the closest if there is none."""
    if name not in SPECS:
        close = difflib.get_close_matches(name, SPECS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no network {name!r}; {hint}Known: {', '.join(SPECS)}.")
    return SPECS[name]
