# SPDX-License-Identifier: Apache-2.0
"""Networks of the paper's blocks for small images, which the instability study trains."""

import math
from functools import partial
from typing import Any, Literal

from inception_jax.models.inception_b import FIG_17, InceptionResNetB
from inception_jax.models.inception_c import (
    FIG_19,
    InceptionResNetC,
    published_last,
    residual_c_branches,
)
from inception_jax.models.layers import VALID, Box, Branches, Mixed
from inception_jax.models.residual import ResidualOptions, check_choice
from inception_jax.models.spec import (
    INITIALIZERS,
    SCALE_B,
    SCALE_C,
    NetworkSpec,
    Stage,
    numbered,
    residual_stage,
)
from inception_jax.models.stem import paper_width_stem, small_image_stem

Head = Literal["paper", "published"]
B_WIDTH = 1088  # channels of inception_resnet_v2's stream on the 17x17 grid


def small_image_spec(
    width: int = 256,
    depth: int = 10,
    branch_width: int = 16,
    image_shape: tuple[int, int, int] = (8, 8, 1),
    *,
    block: Literal["v1", "v2", "plain", "concat"] = "v1",
    head: Head = "paper",
    residual_init: str = "he",
) -> NetworkSpec:
    """Return a network of `depth` Inception-ResNet-C blocks on `width` channels.

    `image_shape` is height, width, channels. `block` chooses the branches:
      "v1": Fig. 13 with m = `branch_width` filters in every convolution.
      "v2": the proportions of Fig. 19: m, m, 7m/6 and 4m/3 filters.
      "plain": as "v1", without the shortcut and at scale 1.
      "concat": not a residual network; see `concat_branches_of_cost`.

    `head` chooses what follows the blocks:
      "paper": the average pool reads the last sum after its ReLU, the layer that section
        3.3 saw "produce only zeros".
      "published": as in `inception_resnet_v2`, the last block has scale 1 and no ReLU, and
        a 1x1 convolution to 1536/2080 of `width` follows. "concat" blocks keep their ReLUs.

    `residual_init` is a name of `INITIALIZERS`. He initialisation gives every residual a
    variance of about 1 at any width. With Glorot's the variance decreases with the width;
    with a stddev of 0.1 it is 1.5 to 1.7 at the paper's widths and grows with
    `branch_width`. All other convolutions use Glorot's, as in slim.

    Raises ValueError for an unknown block, head or initialiser.
    """
    check_choice("block", block, ("v1", "v2", "plain", "concat"))
    check_choice("head", head, ("paper", "published"))
    m, final_conv = branch_width, _final_conv(head, width)
    if block == "concat":
        branches = concat_branches_of_cost(width, depth, m, final_conv or 0)
        names = numbered("Mixed_7", depth)
        mixed = partial(Mixed, branches=branches)
        stages: tuple[Stage, ...] = (Stage("C", mixed, names, "like Fig. 6"),)
    else:
        tower = (m, round(m * 7 / 6), round(m * 4 / 3)) if block == "v2" else (m, m, m)
        figure = "Fig. 19, narrow" if block == "v2" else "Fig. 13, narrow"
        scale = 1.0 if block == "plain" else 0.1
        stages = _c_stages(residual_c_branches(m, tower), figure, depth, scale, head)
    return _spec(
        residual_init,
        stem=small_image_stem(width),
        stages=stages,
        image_shape=image_shape,
        min_size=8,
        final_conv=final_conv,
        residual=ResidualOptions(shortcut=block != "plain"),
    )


def paper_width_spec(
    width: int = 2080,
    depth: int = 10,
    image_shape: tuple[int, int, int] = (40, 40, 3),
    *,
    head: Head = "paper",
    residual_init: str = "he",
) -> NetworkSpec:
    """Return a network of the published B and C blocks for images of about 40 pixels.

    It has a stem to 9x9x1088, `depth` blocks of Fig. 17, a 3x3 convolution of stride 2 to
    `width` channels, and `depth` blocks of Fig. 19 on 4x4x`width`. The convolution replaces
    Reduction-B, whose branches cannot give every width. 1088 and 2080 are the widths of
    `inception_resnet_v2`. `head` and `residual_init` are as in `small_image_spec`; the
    default scales are the published ones.

    Raises ValueError for an unknown head or initialiser.
    """
    check_choice("head", head, ("paper", "published"))
    reduction = ((Box("1a", width, (3, 3), 2, VALID),),)
    names = numbered("block17", depth)
    return _spec(
        residual_init,
        stem=paper_width_stem(B_WIDTH),
        stages=(
            residual_stage("B", InceptionResNetB, FIG_17, "Fig. 17", names, SCALE_B),
            Stage(
                "Reduction-B",
                partial(Mixed, branches=reduction),
                ("Mixed_7a",),
                "not in the paper",
            ),
            *_c_stages(FIG_19, "Fig. 19", depth, SCALE_C, head),
        ),
        image_shape=image_shape,
        min_size=15,
        final_conv=_final_conv(head, width),
    )


def concat_branches_of_cost(
    width: int, depth: int, branch_width: int, final_conv: int = 0
) -> Branches:
    """Return branches of a non-residual network that costs as much as the residual one.

    Each of `depth` blocks concatenates two branches: a 1x1 convolution of p filters, and
    three convolutions (1x1, 1x3, 3x1) of t filters each. The result has V = p + t channels,
    and t is chosen so that V is about 2t. The stem's `width` W and the head's `final_conv`
    F are kept. The multiply-accumulates per position, first of the residual network with
    `branch_width` m, then of this one, are

        depth (4 W m + 6 m^2) + F W
        depth 6 t^2 + (depth - 1) V^2 + (W + F) V

    With V = 2t, the root is rounded to t; then V is solved for again, so that the costs
    differ by less than 2 % from 64 channels on. For W = 256, 10 blocks and m = 16, V is 80.
    """
    cost = depth * (4 * width * branch_width + 6 * branch_width**2) + final_conv * width
    linear = width + final_conv
    tower = max(1, round(_root(10 * depth - 4, 2 * linear, cost)))
    rest = max(0, cost - 6 * depth * tower**2)
    stream = round(_root(depth - 1, linear, rest))
    return residual_c_branches(max(1, stream - tower), (tower,) * 3)


def _root(a: int, b: int, c: int) -> float:
    """Return the positive x with a x^2 + b x = c."""
    return 2 * c / (b + math.sqrt(b**2 + 4 * a * c))


def _c_stages(
    branches: Branches, figure: str, depth: int, scale: float, head: Head
) -> tuple[Stage, ...]:
    """Return `depth` C blocks; with the published head the last one is as published."""

    def stage(count: int) -> Stage:
        names = numbered("block8", count)
        return residual_stage("C", InceptionResNetC, branches, figure, names, scale)

    if head == "paper":
        return (stage(depth),)
    last = published_last(branches)
    return (stage(depth - 1), last) if depth > 1 else (last,)


def _final_conv(head: Head, width: int) -> int | None:
    # slim's Conv2d_7b_1x1 has 1536 filters on 2080 channels.
    return round(width * 1536 / 2080) if head == "published" else None


def _spec(residual_init: str, **fields: Any) -> NetworkSpec:
    """Return a spec with the settings that all networks of this file share."""
    check_choice("residual_init", residual_init, INITIALIZERS)
    return NetworkSpec(
        stem_figure="not in the paper",
        figure="not in the paper",
        source="this project, for the instability study of section 3.3",
        num_classes=10,
        dropout_rate=0.0,
        # In the 80 steps of most runs, 0.9997 would hardly move the initial values.
        bn_decay=0.9,
        residual_init=INITIALIZERS[residual_init],
        **fields,
    )
