# SPDX-License-Identifier: Apache-2.0
"""Blocks drawn as in the paper's figures, from the input (bottom) to the output (top)."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.architecture.drawings import COLORS, TEXT, dimensions, draw_arrow, draw_box
from inception_jax.models.inception_a import FIG_4, FIG_16
from inception_jax.models.inception_c import FIG_6
from inception_jax.models.layers import VALID, Box, Branches, Layer, avg_pool, max_pool
from inception_jax.models.reduction_b import FIG_8
from inception_jax.models.spec import SCALE_A

# Half the height of a box with one line of text, and with two.
ONE_LINE, TWO_LINES = 0.22, 0.34


@dataclass(frozen=True)
class Residual:
    """The end of a residual block: linear convolution, scale, sum and ReLU (Fig. 20)."""

    channels: int  # of the linear 1x1 convolution, as many as the input has
    scale: float
    relu: bool = True


def draw_block(
    axes: Axes, title: str, branches: Branches, residual: Residual | None = None
) -> None:
    """Draw a block with a column for each branch and a box for each layer."""
    widths = [max(map(_count, layers)) for layers in branches]
    top, left = max(map(len, branches)) + 1, 0
    for layers, width in zip(branches, widths, strict=True):
        _draw_branch(axes, layers, left + width / 2, top)
        left += width
    middle, full_width = left / 2, left - 0.1
    draw_box(axes, middle, 0, "input", width=full_width, height=2 * ONE_LINE)
    if residual is None:
        draw_box(
            axes, middle, top, "filter concatenation", width=full_width, height=2 * ONE_LINE
        )
    else:
        top = _draw_sum(axes, middle, top, residual, full_width)
    axes.set_title(title, fontsize=TEXT + 1)
    axes.set(xlim=(-0.5, left + 0.1), ylim=(-0.35, top + 0.35))
    axes.set_axis_off()


def _draw_branch(axes: Axes, layers: tuple[Layer, ...], center: float, top: float) -> None:
    below, edge = [center], ONE_LINE
    for y, layer in enumerate(layers, 1):
        boxes = layer if isinstance(layer, tuple) else (layer,)
        columns = [center + i - (len(boxes) - 1) / 2 for i in range(len(boxes))]
        for column, box in zip(columns, boxes, strict=True):
            color = COLORS["A" if isinstance(box, Box) else "reduction"]
            draw_box(axes, column, y, layer_label(box), height=2 * TWO_LINES, color=color)
            for start in below:
                draw_arrow(axes, (start, y - 1 + edge), (column, y - TWO_LINES))
        below, edge = columns, TWO_LINES
    for start in below:  # straight up to the top box, which is as wide as the block
        draw_arrow(axes, (start, len(layers) + TWO_LINES), (start, top - ONE_LINE))


def _count(layer: Layer) -> int:
    return len(layer) if isinstance(layer, tuple) else 1


def _draw_sum(
    axes: Axes, middle: float, y: float, residual: Residual, width: float
) -> float:
    """Draw the linear convolution, the scale and the sum; return the height of the top."""
    linear = f"1x1 Conv, linear ({residual.channels})"
    draw_box(axes, middle, y, linear, width=width, height=2 * ONE_LINE)
    after = "ReLU" if residual.relu else "no ReLU"
    steps = (f"x {residual.scale:g}", "+", after)
    for i, text in enumerate(steps, 1):
        draw_arrow(axes, (middle, y + i - 1 + ONE_LINE), (middle, y + i - ONE_LINE))
        draw_box(axes, middle, y + i, text, height=2 * ONE_LINE)
    left = -0.3
    axes.plot([0.05, left, left], [0, 0, y + 2], color="#444444", linewidth=1, zorder=1)
    draw_arrow(axes, (left, y + 2), (middle - 0.45, y + 2))
    return y + 3


def layer_label(layer: Layer) -> str:
    """Return the text of a layer's box; V means no padding, as in the paper."""
    if layer is max_pool:
        return "3x3 MaxPool\n(stride 2 V)"
    if layer is avg_pool:
        return "3x3\nAvgPool"
    assert isinstance(layer, Box)
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    unpadded = " V" if layer.padding == VALID else ""
    return f"{dimensions(layer.kernel)} Conv\n({layer.features}{stride}{unpadded})"


def draw_blocks() -> Figure:
    """Draw Inception-A, Inception-C and Reduction-B of v4, and Inception-ResNet-A of v2."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
    draw_block(top_left, "Fig. 4: Inception-A", FIG_4)
    draw_block(top_right, "Fig. 6: Inception-C", FIG_6)
    draw_block(bottom_left, "Fig. 8: Reduction-B", FIG_8)
    title = "Fig. 16 with Fig. 20: Inception-ResNet-A"
    draw_block(bottom_right, title, FIG_16, Residual(320, SCALE_A))
    return figure
