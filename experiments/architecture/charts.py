# SPDX-License-Identifier: Apache-2.0
"""Charts of the cost of the networks and of their receptive fields."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.architecture.drawings import NETWORKS, TEXT, color_of, parts_of, summary_of
from experiments.curves import STYLES
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.summary import Summary
from inception_jax.models.zoo import SPECS

# Hatches of the parts of Figs 9 and 15; they distinguish the two reductions.
HATCHES = {
    "stem": "",
    "A": "",
    "Reduction-A": "//",
    "B": "",
    "Reduction-B": "\\\\",
    "C": "",
    "head": "",
}
LETTER = 0.021  # width of a letter, as a share of the longest bar


def totals_by_part(summary: Summary, quantity: str) -> dict[str, int]:
    """Return the sum of "params" or "macs" for each part of Figs 9 and 15."""
    totals = dict.fromkeys(HATCHES, 0)
    for row, part in zip(summary.rows, parts_of(summary), strict=True):
        totals[part] += getattr(row, quantity)
    return totals


def draw_cost(names: Sequence[str] = NETWORKS) -> Figure:
    """Draw the parameters and multiply-accumulates of networks, divided into parts."""
    figure = Figure(figsize=(10, 0.62 * len(names) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_bars(left, names, "params", 1e6)
    left.set_xlabel("parameters (millions)")
    _draw_bars(right, names, "macs", 1e9)
    right.set_xlabel("multiply-accumulates for one image (billions)")
    figure.legend(
        [Patch(**_patch_style(part)) for part in HATCHES],
        HATCHES,
        loc="outside lower center",
        ncols=len(HATCHES),
        fontsize=TEXT,
    )
    return figure


def _patch_style(part: str) -> dict[str, str]:
    color = color_of(part)
    return {"facecolor": color, "edgecolor": "#444444", "hatch": HATCHES[part]}


def _draw_bars(axes: Axes, names: Sequence[str], quantity: str, unit: float) -> None:
    summaries = {name: summary_of(name) for name in reversed(names)}
    longest = max(getattr(summary, quantity) for summary in summaries.values()) / unit
    for name, summary in summaries.items():
        end = 0.0
        for part, value in totals_by_part(summary, quantity).items():
            size = value / unit
            axes.barh(name, size, left=end, **_patch_style(part))
            # Text on hatches would be illegible; the legend names them.
            if size > (len(part) + 1) * LETTER * longest and not HATCHES[part]:
                axes.text(end + size / 2, name, part, ha="center", va="center")
            end += size
        axes.text(end + 0.015 * longest, name, f"{end:.1f}", va="center")
    axes.set(xlim=(0, 1.12 * longest))
    axes.spines[["top", "right"]].set_visible(False)


def draw_receptive_fields(names: Sequence[str] = NETWORKS) -> Figure:
    """Draw the size of the receptive field along the layers of networks."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    for order, name in enumerate(reversed(names)):  # dotted lines on top
        color, dashes = STYLES[name]
        sizes = [field.size[0] for field in receptive_fields(SPECS[name]).values()]
        label = f"{name}: {sizes[-1]} pixels"
        style = {"color": color, "linestyle": dashes, "linewidth": 2, "zorder": 3 + order}
        axes.plot(sizes, label=label, **style)
    axes.axhline(299, color="#666666", linewidth=1)
    axes.text(0, 310, "the image: 299 pixels", fontsize=TEXT, color="#444444", va="bottom")
    axes.set_yscale("log")
    axes.set_yticks([3, 10, 30, 100, 300, 1000, 3000])
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set(xlabel="layers of the stem, then blocks", ylabel="receptive field (pixels)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=TEXT)
    return figure
