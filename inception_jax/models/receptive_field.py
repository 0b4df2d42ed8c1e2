# SPDX-License-Identifier: Apache-2.0
"""Receptive fields: the image pixels that a position of a feature map depends on.

They are computed from the figures' boxes; no array is computed. A layer with kernel k,
stride s and p positions of padding at the start maps a field of `size` pixels, with
`stride` pixels between positions and its first pixel at `start`, to

    size + (k - 1) stride,  stride s,  start - p stride

A concatenation of branches, or the sum with a shortcut, covers the union of their fields.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from inception_jax.models.layers import SAME, Box, Branches, Layer, avg_pool, max_pool
from inception_jax.models.residual import ResidualBlock
from inception_jax.models.spec import NetworkSpec, Stage

# The pools as boxes: kernel, stride and padding.
POOLS: dict[Layer, Box] = {
    max_pool: Box("", 0, (3, 3), 2, "VALID"),
    avg_pool: Box("", 0, (3, 3)),
}


@dataclass(frozen=True)
class Field:
    """The smallest rectangle of pixels that contains everything a position depends on.

    Pairs are (height, width) in pixels. Parts outside the image are padding.
    """

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)  # between neighbouring positions
    start: tuple[int, int] = (0, 0)  # first pixel of position (0, 0); may be padding

    def pixels_of(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return top, left, bottom and right of a field; the last two are exclusive."""
        top = self.start[0] + row * self.stride[0]
        left = self.start[1] + column * self.stride[1]
        return top, left, top + self.size[0], left + self.size[1]


IMAGE = Field()


def receptive_fields(spec: NetworkSpec) -> dict[str, Field]:
    """Return the field of every feature map among the endpoints of a network, in order.

    Endpoints after the average pool are left out: they depend on everything that any
    position of the last feature map depends on. Raises ValueError for a padded layer with a
    stride, whose field depends on the image size; no network of the paper has one.
    """
    field, fields = IMAGE, {}
    for name, step in spec.stem().steps:
        after = after_branches if isinstance(step, tuple) else after_layer
        field = fields[name] = after(field, step)
    for stage in spec.stages:
        for name in stage.names:
            field = fields[name] = _after_block(field, spec, stage)
            if name == spec.aux_after:
                fields["PreAuxLogits"] = field
    if spec.final_conv:
        fields["Conv2d_7b_1x1"] = field
    return fields | {"PrePool": field}


def _after_block(field: Field, spec: NetworkSpec, stage: Stage) -> Field:
    block = stage.module()
    after = after_branches(field, block.branches)
    shortcut = isinstance(block, ResidualBlock) and spec.residual.shortcut
    return union([field, after]) if shortcut else after


def after_branches(field: Field, branches: Branches) -> Field:
    """Return the field after a concatenation of branches, all of which read `field`."""
    return union([reduce(after_layer, layers, field) for layers in branches])


def after_layer(field: Field, layer: Layer) -> Field:
    """Return the field after one layer that reads `field`."""
    if isinstance(layer, tuple):  # convolutions side by side
        return union([after_layer(field, box) for box in layer])
    box = layer if isinstance(layer, Box) else POOLS[layer]
    if box.padding == SAME and box.stride > 1:
        raise ValueError(
            f"the padding of {box.name} of stride {box.stride} depends on the image size; "
            "receptive fields need padding VALID."
        )

    padding = [(k - 1) // 2 if box.padding == SAME else 0 for k in box.kernel]
    (height, width), (down, right), (top, left) = field.size, field.stride, field.start
    return Field(
        size=(height + (box.kernel[0] - 1) * down, width + (box.kernel[1] - 1) * right),
        stride=(down * box.stride, right * box.stride),
        start=(top - padding[0] * down, left - padding[1] * right),
    )


def union(fields: Iterable[Field]) -> Field:
    """Return the smallest field around several fields of the same stride."""
    fields = list(fields)
    (stride,) = {field.stride for field in fields}
    top, left = (min(field.start[axis] for field in fields) for axis in (0, 1))
    bottom, right = (
        max(field.start[axis] + field.size[axis] for field in fields) for axis in (0, 1)
    )
    return Field((bottom - top, right - left), stride, (top, left))
