# SPDX-License-Identifier: Apache-2.0
"""The table of networks: one row of `SPECS` for each column of Figs 9 and 15."""

from functools import partial

import flax.linen as nn

from inception_jax.models.inception_a import (
    FIG_10,
    FIG_16,
    InceptionA,
    InceptionResNetA,
)
from inception_jax.models.inception_b import (
    FIG_11,
    FIG_17,
    InceptionB,
    InceptionResNetB,
)
from inception_jax.models.inception_c import (
    FIG_13,
    FIG_19,
    InceptionC,
    InceptionResNetC,
    residual_c_branches,
)
from inception_jax.models.inception_v3 import INCEPTION_V3_STAGES
from inception_jax.models.layers import Branches, ModuleDef
from inception_jax.models.reduction_a import TABLE_1, ReductionA
from inception_jax.models.reduction_b import (
    FIG_12,
    FIG_18,
    InceptionResNetReductionB,
    ReductionB,
)
from inception_jax.models.schema import NetworkSpec, Stage
from inception_jax.models.stem import (
    InceptionResNetV1Stem,
    InceptionV3Stem,
    InceptionV4Stem,
    PublishedInceptionResNetV2Stem,
    small_image_stem,
)


def _lettered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(prefix + letter for letter in "bcdefgh"[:count])


def _numbered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}_{i + 1}" for i in range(count))


# slim/nets/inception_resnet_v2.py and facenet's inception_resnet_v1.py: scale=0.17, 0.10
# and 0.20 on the 35x35, 17x17 and 8x8 grid. The paper says "between 0.1 and 0.3".
SCALE_A, SCALE_B, SCALE_C = 0.17, 0.10, 0.20


def _repeated(
    role: str,
    block: ModuleDef,
    branches: Branches,
    figure: str,
    names: tuple[str, ...],
    scale: float,
) -> Stage:
    return Stage(role, partial(block, branches=branches), names, figure, scale)


V1_STAGES = (
    _repeated("A", InceptionResNetA, FIG_10, "Fig. 10", _numbered("block35", 5), SCALE_A),
    Stage(
        "Reduction-A",
        partial(ReductionA, *TABLE_1["inception_resnet_v1"]),
        ("Mixed_6a",),
        "Fig. 7, Table 1",
    ),
    _repeated("B", InceptionResNetB, FIG_11, "Fig. 11", _numbered("block17", 10), SCALE_B),
    Stage(
        "Reduction-B",
        partial(InceptionResNetReductionB, branches=FIG_12),
        ("Mixed_7a",),
        "Fig. 12",
    ),
    _repeated("C", InceptionResNetC, FIG_13, "Fig. 13", _numbered("block8", 5), SCALE_C),
)


def _v2_stages(num_a: int, num_b: int, num_c: int) -> tuple[Stage, ...]:
    names_a, names_b = _numbered("block35", num_a), _numbered("block17", num_b)
    names_c = _numbered("block8", num_c)
    return (
        _repeated("A", InceptionResNetA, FIG_16, "Fig. 16", names_a, SCALE_A),
        Stage(
            "Reduction-A",
            partial(ReductionA, *TABLE_1["inception_resnet_v2"]),
            ("Mixed_6a",),
            "Fig. 7, Table 1",
        ),
        _repeated("B", InceptionResNetB, FIG_17, "Fig. 17", names_b, SCALE_B),
        Stage(
            "Reduction-B",
            partial(InceptionResNetReductionB, branches=FIG_18),
            ("Mixed_7a",),
            "Fig. 18",
        ),
        _repeated("C", InceptionResNetC, FIG_19, "Fig. 19", names_c, SCALE_C),
    )


def _published_last(branches: Branches) -> Stage:
    """The C block that slim and facenet put last: scale 1, no ReLU; not in the paper."""
    block = partial(InceptionResNetC, relu=False)
    return _repeated("C, last", block, branches, "not in the paper", ("Block8",), 1.0)


def small_image_spec(
    width: int = 256,
    depth: int = 10,
    branch_width: int = 16,
    image_shape: tuple[int, int, int] = (8, 8, 1),
) -> NetworkSpec:
    """`depth` Inception-ResNet-C blocks on a stream of `width` channels, small images.

    The blocks are those of the full networks (Fig. 19 with `branch_width` filters in
    every box); the head is the paper's: the average pool sits on the last ReLU'd sum, the
    layer that section 3.3 saw "produce only zeros". Initialisers: Glorot uniform as in
    slim, and He normal for the linear 1x1, which gives every residual variance of about
    1 at any width. (The stddev of 0.1 of the period's code gives 1.5 to 1.7 at the
    paper's widths, but would grow with `branch_width` here.) `image_shape` is height,
    width, channels.
    """
    branches = residual_c_branches(branch_width, (branch_width,) * 3)
    names = _numbered("block8", depth)
    return NetworkSpec(
        stem=small_image_stem(width),
        stem_figure="not in the paper",
        stages=(_repeated("C", InceptionResNetC, branches, "Fig. 19, narrow", names, 0.1),),
        figure="not in the paper",
        source="this project, for the instability study of section 3.3",
        image_shape=image_shape,
        min_size=8,
        num_classes=10,
        dropout_rate=0.0,
        # Runs of some hundred steps: 0.9997 would still remember the initial values.
        bn_decay=0.9,
        residual_init=nn.initializers.he_normal(),
    )


# slim/nets/inception_utils.py: variance_scaling_initializer(), factor 2, fan in.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")

SPECS: dict[str, NetworkSpec] = {
    # The baseline of Tables 2 to 5. (slim draws the last two layers of its aux head from
    # narrower distributions, of stddev 0.01 and 0.001; here they are like all others.)
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
            Stage(
                "Reduction-A",
                partial(ReductionA, *TABLE_1["inception_v4"]),
                ("Mixed_6a",),
                "Fig. 7, Table 1",
            ),
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
        stages=V1_STAGES,
        figure="Fig. 15",
        source="Fig. 15 with the parts of Figs 10 to 14",
    ),
    # The network that slim, Keras, timm and every published weight file mean. It is not
    # the one drawn: other stem, twice the blocks, a last block with scale 1 and no ReLU,
    # and Conv2d_7b. slim's author: "done under the advise of the authors of the paper".
    "inception_resnet_v2": NetworkSpec(
        stem=PublishedInceptionResNetV2Stem,
        stem_figure="like Fig. 14",
        stages=(*_v2_stages(10, 20, 9), _published_last(FIG_19)),
        final_conv=1536,
        figure="like Fig. 15",
        source="slim/nets/inception_resnet_v2.py",
    ),
    # Fig. 15's block counts are v1's ("the sizes ... for Inception-ResNet-v1"), so 5/10/5
    # is the literal reading; at 9.3 GMACs it does not "match the raw cost" of
    # Inception-v4 (12.3), as the text says v2 does. See FIG_17 and FIG_19 for the widths.
    "inception_resnet_v2_paper": NetworkSpec(
        stem=InceptionV4Stem,
        stem_figure="Fig. 3",
        stages=_v2_stages(5, 10, 5),
        figure="Fig. 15",
        source="Fig. 15 with the parts of Figs 3 and 16 to 19",
    ),
    "inception_resnet_v1_facenet": NetworkSpec(
        stem=InceptionResNetV1Stem,
        stem_figure="Fig. 14",
        stages=(*V1_STAGES, _published_last(FIG_13)),
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
