# SPDX-License-Identifier: Apache-2.0
"""Networks drawn as in Figs 9 and 15, from the input (bottom) to the output (top)."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from inception_jax.models.network import create
from inception_jax.models.summary import Row, Summary, aligned, differing, summarise
from inception_jax.models.zoo import SPECS

# Okabe and Ito's colours, which suit colour-blind readers, lightened so that black text is
# legible on them.
COLORS = {
    "stem": "#FAF3A8",
    "A": "#B6DEF7",
    "B": "#F8DB9F",
    "C": "#A3DCCB",
    "reduction": "#E4E4E4",
    "head": "#EBCCDD",
}
DIFFERENT = "#D55E00"
TEXT = 8.5  # font size in points, legible if a figure is 1000 pixels wide
NETWORKS = ("inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2")


def color_of(role: str) -> str:
    """Return the colour of a part of a network or of a row's role."""
    part = "reduction" if role.startswith("Reduction") else role.split(",")[0]
    return COLORS.get(part, "#FFFFFF")


def summary_of(name: str) -> Summary:
    """Return the summary of a network at its own image size."""
    return summarise(create(name))


def parts_of(summary: Summary) -> list[str]:
    """Return the part of Figs 9 and 15 of each row: stem, A, Reduction-A, ..., head."""
    parts = []
    outside = "stem"  # part of the rows that are not blocks
    for row in summary.rows:
        role = row.role.split(",")[0]
        if role in ("A", "Reduction-A", "B", "Reduction-B", "C"):
            parts.append(role)
            outside = "head"
        else:
            parts.append(outside)
    return parts


def dimensions(shape: Sequence[int]) -> str:
    """Return a shape as text, such as 35x35x384."""
    return "x".join(map(str, shape))


def draw_box(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    width: float = 0.9,
    height: float = 0.7,
    color: str = "#FFFFFF",
    edge: str = "#444444",
    size: float = TEXT,
) -> None:
    """Draw a box around (x, y) with text in it."""
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=color,
        edgecolor=edge,
        linewidth=2.2 if edge == DIFFERENT else 0.9,
        zorder=2,
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=size, zorder=3)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from one point to another, behind the boxes."""
    style = {"arrowstyle": "-|>", "color": "#444444", "linewidth": 1, "shrinkA": 0}
    axes.annotate("", end, start, arrowprops=style | {"shrinkB": 0}, zorder=1)


# The boxes of Figs 9 and 15, from the bottom up.
PARTS = (
    *("image", "stem", "A", "Reduction-A", "B", "Reduction-B", "C", "C, last"),
    *("Conv2d_7b_1x1", "global_pool", "Dropout", "Logits"),
)


def part_labels(name: str, summary: Summary) -> dict[str, str]:
    """Return the text of each box of a network, keyed by the boxes that it has."""
    spec, rows = SPECS[name], {row.role: row for row in summary.rows}
    first = [row.role for row in summary.rows].index(spec.stages[0].role)
    stem = summary.rows[first - 1]
    kind = "Inception-ResNet" if spec.default_scales else "Inception"
    labels = {
        "image": f"Image\n{dimensions(spec.image_shape)}",
        "stem": f"Stem, {spec.stem_figure}\n{dimensions(stem.shape)}",
        "global_pool": f"Average pool\n{dimensions(rows['global_pool'].shape)}",
        "Dropout": f"Dropout\n(keep {1 - spec.dropout_rate:g})",
        "Logits": f"Softmax\n{dimensions(rows['Logits'].shape)}",
    }
    for role in set(PARTS[2:9]) & set(rows):
        row, label = rows[role], role
        if role == "Conv2d_7b_1x1":
            label = "1x1 Conv"
        elif not role.startswith("Reduction"):
            label = f"{row.count} x {kind}-{role[0]}"
        figure = row.figure.replace("1512.00567, ", "v3 paper, ").replace("like ", "")
        scale = "" if row.scale is None else f", scale {row.scale:g}"
        labels[role] = (
            f"{label}{scale}\n{dimensions(row.shape)} ({figure.split(', Table')[0]})"
        )
    return labels


def draw_networks(names: Sequence[str] = NETWORKS) -> Figure:
    """Draw networks as columns with the same part at the same height (Figs 9 and 15)."""
    figure = Figure(figsize=(2.55 * len(names), 8), layout="constrained")
    axes = figure.subplots()
    for x, name in enumerate(names):
        labels = part_labels(name, summary_of(name))
        heights = [y for y, part in enumerate(PARTS) if part in labels]
        for y, above in pairwise(heights):
            draw_arrow(axes, (x, y + 0.36), (x, above - 0.36))
        for y in heights:
            part = PARTS[y]
            role = "head" if y >= PARTS.index("Conv2d_7b_1x1") else part
            draw_box(axes, x, y, labels[part], width=0.92, color=color_of(role))
        axes.text(x, len(PARTS) - 0.35, name, ha="center", fontsize=TEXT + 1, weight="bold")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.5, len(PARTS)))
    axes.set_axis_off()
    return figure


def draw_comparison(first: str, second: str) -> Figure:
    """Draw two networks stage by stage; a thick edge marks stages that differ."""
    summaries = [summary_of(name) for name in (first, second)]
    parts = {}
    for summary in summaries:
        parts |= dict(zip(summary.rows, parts_of(summary), strict=True))
    pairs = aligned(*summaries)
    figure = Figure(figsize=(10, 0.37 * len(pairs) + 0.6), layout="constrained")
    axes = figure.subplots()
    for y, (left, right) in enumerate(pairs):
        if left and right:
            difference = ", ".join(differing(left, right)) or "the same"
        else:
            difference = "only left" if left else "only right"
        edge = "#444444" if difference == "the same" else DIFFERENT
        for x, row in ((-1, left), (1, right)):
            if row:
                color = color_of(parts[row])
                draw_box(axes, x, y, row_label(row), width=1.1, color=color, edge=edge)
        axes.text(0, y, difference, ha="center", va="center", fontsize=TEXT)
    for x, title in ((-1, first), (0, "differ in"), (1, second)):
        style = {"fontsize": TEXT + 1, "weight": "bold"}
        axes.text(x, len(pairs) - 0.3, title, ha="center", **style)
    axes.set(xlim=(-1.65, 1.65), ylim=(-0.5, len(pairs) + 0.2))
    axes.set_axis_off()
    return figure


def row_label(row: Row) -> str:
    """Return a row as text, such as "10 x A: 35x35x320, 1,231,680, scale 0.17"."""
    times = f"{row.count} x " if row.count > 1 else ""
    scale = "" if row.scale is None else f", scale {row.scale:g}"
    params = f", {row.params:,}" if row.params else ""
    return f"{times}{row.role}: {dimensions(row.shape)}{params}{scale}"
