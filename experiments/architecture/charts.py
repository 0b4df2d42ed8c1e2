# SPDX-License-Identifier: Apache-2.0
"""Where a network's cost is, and how far its layers see."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.architecture.drawings import (
    NETWORKS,
    TEXT,
    color_of,
    parts_of,
    summary_of,
)
from experiments.curves import STYLES
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.summary import Summary
from inception_jax.models.zoo import SPECS

# Parts of Figs 9 and 15, their hatches beside their colours.
HATCHES = {
    "stem": "",
    "A": "",
    "Reduction-A": "//",
    "B": "",
    "Reduction-B": "\\\\",
    "C": "",
    "head": "",
}
LETTER = 0.021  # width of a letter in a bar, as a share of the longest bar


def totals_by_part(summary: Summary, what: str) -> dict[str, int]:
    """Parameters ("params") or MACs ("macs") of the parts of Figs 9 and 15."""
    sums = dict.fromkeys(HATCHES, 0)
    for row, group in zip(summary.rows, parts_of(summary), strict=True):
        sums[group] += getattr(row, what)
    return sums


def draw_cost(names: Sequence[str] = NETWORKS) -> Figure:
    """Where the parameters and the multiply-accumulates of networks are."""
    figure = Figure(figsize=(10, 0.62 * len(names) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_bars(left, names, "params", 1e6)
    left.set_xlabel("parameters (millions)")
    _draw_bars(right, names, "macs", 1e9)
    right.set_xlabel("multiply-accumulates of one image (billions)")
    patches = [_look(group) for group in HATCHES]
    figure.legend(
        [Patch(**look) for look in patches],
        HATCHES,
        loc="outside lower center",
        ncols=len(HATCHES),
        fontsize=TEXT,
    )
    return figure


def _look(group: str) -> dict[str, str]:
    color = color_of(group)
    return {"facecolor": color, "edgecolor": "#444444", "hatch": HATCHES[group]}


def _draw_bars(axes: Axes, names: Sequence[str], what: str, unit: float) -> None:
    summaries = {name: summary_of(name) for name in reversed(names)}
    longest = max(getattr(summary, what) for summary in summaries.values()) / unit
    for name, summary in summaries.items():
        end = 0.0
        for group, value in totals_by_part(summary, what).items():
            size = value / unit
            axes.barh(name, size, left=end, **_look(group))
            # Hatches are named in the legend alone.
            if size > (len(group) + 1) * LETTER * longest and not HATCHES[group]:
                axes.text(end + size / 2, name, group, ha="center", va="center")
            end += size
        axes.text(end + 0.015 * longest, name, f"{end:.1f}", va="center")
    axes.set(xlim=(0, 1.12 * longest))
    axes.spines[["top", "right"]].set_visible(False)


def draw_receptive_fields(names: Sequence[str] = NETWORKS) -> Figure:
    """How much of the image a position can see, from layer to layer."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    for order, name in enumerate(reversed(names)):  # the dotted ones are on top
        color, dashes = STYLES[name]
        sizes = [field.size[0] for field in receptive_fields(SPECS[name]).values()]
        label = f"{name}: {sizes[-1]} pixels"
        look = {"color": color, "linestyle": dashes, "linewidth": 2, "zorder": 3 + order}
        axes.plot(sizes, label=label, **look)
    axes.axhline(299, color="#666666", linewidth=1)
    axes.text(0, 310, "the image: 299", fontsize=TEXT, color="#444444", va="bottom")
    axes.set_yscale("log")
    axes.set_yticks([3, 10, 30, 100, 300, 1000, 3000])
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set(xlabel="layers of the stem, then blocks", ylabel="receptive field (pixels)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=TEXT)
    return figure
