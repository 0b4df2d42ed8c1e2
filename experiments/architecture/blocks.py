# SPDX-License-Identifier: Apache-2.0
"""Blocks drawn as their figures do, from input (below) to output (above)."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.architecture.drawings import COLORS, TEXT, dimensions, draw_arrow, draw_box
from inception_jax.models.inception_a import FIG_4, FIG_16
from inception_jax.models.inception_c import FIG_6
from inception_jax.models.layers import VALID, Box, Branches, Layer
from inception_jax.models.pooling import avg_pool, max_pool
from inception_jax.models.reduction_b import FIG_8
from inception_jax.models.spec import SCALE_A

# Half of the height of a box with a line of text, and with two.
LINE, HIGH = 0.22, 0.34


@dataclass(frozen=True)
class Residual:
    """What a block of Fig. 20 has behind its branches."""

    channels: int  # of the linear 1x1 convolution, which are those of the input
    scale: float
    relu: bool = True


def draw_block(
    axes: Axes, title: str, branches: Branches, residual: Residual | None = None
) -> None:
    """A block as its figure draws it: a column for each branch, a box for each layer."""
    widths = [max(map(_count, layers)) for layers in branches]
    top, left = max(map(len, branches)) + 1, 0
    for layers, width in zip(branches, widths, strict=True):
        _draw_branch(axes, layers, left + width / 2, top)
        left += width
    middle, whole = left / 2, left - 0.1
    draw_box(axes, middle, 0, "input", width=whole, height=2 * LINE)
    if residual is None:
        draw_box(axes, middle, top, "filter concatenation", width=whole, height=2 * LINE)
    else:
        top = _draw_sum(axes, middle, top, residual, whole)
    axes.set_title(title, fontsize=TEXT + 1)
    axes.set(xlim=(-0.5, left + 0.1), ylim=(-0.35, top + 0.35))
    axes.set_axis_off()


def _draw_branch(axes: Axes, layers: tuple[Layer, ...], center: float, top: float) -> None:
    below, edge = [center], LINE
    for y, layer in enumerate(layers, 1):
        boxes = layer if isinstance(layer, tuple) else (layer,)
        columns = [center + i - (len(boxes) - 1) / 2 for i in range(len(boxes))]
        for column, box in zip(columns, boxes, strict=True):
            color = COLORS["A" if isinstance(box, Box) else "reduction"]
            draw_box(axes, column, y, layer_label(box), height=2 * HIGH, color=color)
            for start in below:
                draw_arrow(axes, (start, y - 1 + edge), (column, y - HIGH))
        below, edge = columns, HIGH
    for start in below:  # straight up, to a box as wide as the block
        draw_arrow(axes, (start, len(layers) + HIGH), (start, top - LINE))


def _count(layer: Layer) -> int:
    return len(layer) if isinstance(layer, tuple) else 1


def _draw_sum(
    axes: Axes, middle: float, y: float, residual: Residual, whole: float
) -> float:
    """The linear convolution, the scale and the sum with the input; the height reached."""
    linear = f"1x1 Conv, linear ({residual.channels})"
    draw_box(axes, middle, y, linear, width=whole, height=2 * LINE)
    after = "ReLU" if residual.relu else "no ReLU"
    steps = (f"x {residual.scale:g}", "+", after)
    for i, text in enumerate(steps, 1):
        draw_arrow(axes, (middle, y + i - 1 + LINE), (middle, y + i - LINE))
        draw_box(axes, middle, y + i, text, height=2 * LINE)
    left = -0.3
    axes.plot([0.05, left, left], [0, 0, y + 2], color="#444444", linewidth=1, zorder=1)
    draw_arrow(axes, (left, y + 2), (middle - 0.45, y + 2))
    return y + 3


def layer_label(layer: Layer) -> str:
    """What a figure writes into a box; a V is no padding, as in the paper."""
    if layer is max_pool:
        return "3x3 MaxPool\n(stride 2 V)"
    if layer is avg_pool:
        return "3x3\nAvgPool"
    assert isinstance(layer, Box)
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    unpadded = " V" if layer.padding == VALID else ""
    return f"{dimensions(layer.kernel)} Conv\n({layer.features}{stride}{unpadded})"


def draw_blocks() -> Figure:
    """Four blocks: Inception-A, -C, Reduction-B of v4, and the residual A of v2."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for axes, title, branches in zip(
        panels,
        ("Fig. 4: Inception-A", "Fig. 6: Inception-C", "Fig. 8: Reduction-B"),
        (FIG_4, FIG_6, FIG_8),
        strict=False,
    ):
        draw_block(axes, title, branches)
    title = "Fig. 16 with Fig. 20: Inception-ResNet-A"
    draw_block(figure.axes[3], title, FIG_16, Residual(320, SCALE_A))
    return figure
