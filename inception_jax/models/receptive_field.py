# SPDX-License-Identifier: Apache-2.0
"""Which pixels of the image a position of a feature map depends on, by arithmetic.

Read off the boxes of the figures, as `inception_jax.models` writes them down; no array is
computed. With kernel k, stride s and p pixels of padding before the first, a layer makes of
a field of `size` pixels every `stride` pixels, which begins at `start`:

    start - p stride,  size + (k - 1) stride,  stride s

Branches, and the shortcut of a residual block, see what any of them sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from inception_jax.models.layers import SAME, Box, Branches, Layer, avg_pool, max_pool
from inception_jax.models.residual import ResidualBlock
from inception_jax.models.spec import NetworkSpec, Stage

# The pools as boxes; `max_pool` and `avg_pool` say so in words.
POOLS = {
    max_pool: Box("", 0, (3, 3), 2, "VALID"),
    avg_pool: Box("", 0, (3, 3)),
}


@dataclass(frozen=True)
class Field:
    """What a position of a map can see; each pair is along height and width, in pixels.

    It is the smallest box around all that has a path to the position. Far from the border
    all of it is image; what lies outside the image is padding.
    """

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)  # from one position to the next
    start: tuple[int, int] = (0, 0)  # first pixel of position (0, 0); negative: padding

    def seen_by(self, row: int, column: int) -> tuple[int, int, int, int]:
        """First row, first column, and the row and column after the last, of a position."""
        top, left = (
            start + i * stride
            for i, start, stride in zip((row, column), self.start, self.stride, strict=True)
        )
        return top, left, top + self.size[0], left + self.size[1]


IMAGE = Field()


def receptive_fields(spec: NetworkSpec) -> dict[str, Field]:
    """The field of every map among the endpoints of a network, in their order.

    What comes after the average pool sees what any position of the last map sees, and is
    left out. Raises ValueError where a field depends on the size of the image: behind a
    padded layer with a stride, which no network of the paper has.
    """
    field, found = IMAGE, {}
    for name, step in spec.stem().steps:
        of_branches = isinstance(step, tuple)
        field = after_branches(field, step) if of_branches else after_layer(field, step)
        found[name] = field
    for stage in spec.stages:
        for name in stage.names:
            field = found[name] = _after_block(field, spec, stage)
            if name == spec.aux_after:
                found["PreAuxLogits"] = field
    if spec.final_conv:
        found["Conv2d_7b_1x1"] = field
    return found | {"PrePool": field}


def _after_block(field: Field, spec: NetworkSpec, stage: Stage) -> Field:
    block = stage.module()
    after = after_branches(field, block.branches)
    shortcut = isinstance(block, ResidualBlock) and spec.residual.shortcut
    return union([field, after]) if shortcut else after


def after_branches(field: Field, branches: Branches) -> Field:
    """The field behind a concatenation of branches, each of them behind `field`."""
    return union([reduce(after_layer, layers, field) for layers in branches])


def after_layer(field: Field, layer: Layer) -> Field:
    """The field behind a layer that is behind `field`."""
    if isinstance(layer, tuple):  # side by side
        return union([after_layer(field, box) for box in layer])
    box = layer if isinstance(layer, Box) else POOLS[layer]
    if box.padding == SAME and box.stride > 1:
        raise ValueError(
            f"{box.name} of stride {box.stride} is padded as the size of the image asks "
            "for; its receptive field needs padding VALID."
        )
    before = [(kernel - 1) // 2 if box.padding == SAME else 0 for kernel in box.kernel]
    axes = zip(field.size, field.stride, field.start, box.kernel, before, strict=True)
    size, stride, start = zip(
        *(
            (size + (kernel - 1) * stride, stride * box.stride, start - pad * stride)
            for size, stride, start, kernel, pad in axes
        ),
        strict=True,
    )
    return Field(size, stride, start)


def union(fields: Iterable[Field]) -> Field:
    """The smallest field around several, which are of maps of one size."""
    fields = list(fields)
    (stride,) = {field.stride for field in fields}
    start = tuple(min(field.start[i] for field in fields) for i in (0, 1))
    end = [max(field.start[i] + field.size[i] for field in fields) for i in (0, 1)]
    return Field((end[0] - start[0], end[1] - start[1]), stride, start)
